"""Questions with exact answers, asked of a model on top of a context's cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cachegen.codec.calibration.sample import RoundTrip
from cachegen.engines.transformers.cache import capture, to_cache
from cachegen.engines.transformers.model import input_device
from cachegen.kvcache import KVCache

# Tokens that an answer is looked for in, where it does not differ earlier. Arbitrary: 4 to 32 do.
_NEW_TOKENS = 8
# Bounds memory: every prompt has a copy of the context's cache. Arbitrary: 8 to 64 do.
_BATCH_PROMPTS = 32


@dataclass(frozen=True, slots=True)
class Task:
    """A context and questions that it answers.

    Attributes:
        domain: the kind of text that it is measured as.
        context: token ids whose cache is coded.
        prompts: per question the token ids read on top of the context.
        answers: per question what the greedy continuation must begin with.
    """

    domain: str
    context: tuple[int, ...]
    prompts: tuple[tuple[int, ...], ...]
    answers: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.answers or len(self.prompts) != len(self.answers) or not all(self.prompts):
            raise ValueError(
                f"expected at least one question, each with a prompt and an answer; got "
                f"{len(self.prompts)} prompts and {len(self.answers)} answers"
            )


def answers_right(
    model: PreTrainedModel,
    tasks: Sequence[Task],
    roundtrip: RoundTrip | None,
    tokenizer: PreTrainedTokenizerBase,
    *,
    caches: Sequence[KVCache] | None = None,
) -> np.ndarray:
    """Which questions are answered rightly, task by task: bool (questions of all tasks,).

    Args:
        model: answers greedily.
        tasks: what is asked.
        roundtrip: codes each context's cache; None asks the uncompressed ones.
        tokenizer: turns answers into text.
        caches: of the contexts, uncompressed; computed where None.
    """
    found: list[bool] = []
    for index, task in enumerate(tasks):
        kv = capture(model, task.context) if caches is None else caches[index]
        coded = kv if roundtrip is None else roundtrip(kv, task.context)
        found += _right(model, task, coded, tokenizer)
    return np.array(found, dtype=bool)


def _right(
    model: PreTrainedModel, task: Task, kv: KVCache, tokenizer: PreTrainedTokenizerBase
) -> list[bool]:
    found: list[bool] = []
    for first in range(0, len(task.prompts), _BATCH_PROMPTS):
        prompts = task.prompts[first : first + _BATCH_PROMPTS]
        answers = task.answers[first : first + _BATCH_PROMPTS]
        wanted = [_ids(f" {answer}", tokenizer) for answer in answers]
        texts = tokenizer.batch_decode(_begun(model, kv, prompts, wanted))
        for prompt, answer, ids, text in zip(prompts, answers, wanted, texts, strict=True):
            if _is_open(text, answer):
                num_new = max(len(ids) + 1, _NEW_TOKENS)
                text = tokenizer.decode(_greedy(model, kv, prompt, num_new=num_new))
            found.append(is_answer(text, answer))
    return found


def is_answer(text: str, answer: str) -> bool:
    """Whether a continuation begins with the answer and ends it there."""
    text = text.strip()
    return text.startswith(answer) and not text[len(answer) : len(answer) + 1].isalnum()


def _is_open(text: str, answer: str) -> bool:
    """Whether it takes more of the continuation to tell."""
    return answer.startswith(text.strip())


@torch.no_grad()
def _begun(
    model: PreTrainedModel,
    kv: KVCache,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
) -> list[list[int]]:
    """Greedy continuations up to and with the first token that the right answer has not.

    All in one pass over prompts and right answers. What fills up the rows stands at their ends,
    where no token before looks.
    """
    texts = [torch.tensor((*p, *a)) for p, a in zip(prompts, answers, strict=True)]
    ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True).to(input_device(model))
    cache = to_cache(kv, model)
    cache.batch_repeat_interleave(len(ids))
    logits = model(input_ids=ids, past_key_values=cache, use_cache=True).logits
    found = []
    for prompt, answer, row in zip(prompts, answers, logits.argmax(dim=-1).tolist(), strict=True):
        chosen = row[len(prompt) - 1 : len(prompt) + len(answer)]
        same = [one == other for one, other in zip(chosen, answer, strict=False)]
        found.append(chosen[: [*same, False].index(False) + 1])
    return found


@torch.no_grad()
def _greedy(
    model: PreTrainedModel, kv: KVCache, prompt: Sequence[int], *, num_new: int
) -> list[int]:
    """The greedy continuation of a prompt on top of a context."""
    cache = to_cache(kv, model)
    ids, found = torch.tensor([tuple(prompt)], device=input_device(model)), []
    for _ in range(num_new):
        logits = model(input_ids=ids, past_key_values=cache, use_cache=True).logits
        ids = logits[:, -1:].argmax(dim=-1)
        found.append(int(ids))
    return found


def first_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """What the tokenizer puts before every text: often one token, or none."""
    ids: list[int] = tokenizer("").input_ids
    return tuple(ids[:1])


def task_from_text(
    domain: str,
    context: str,
    questions: Sequence[tuple[str, str]],
    *,
    tokenizer: PreTrainedTokenizerBase,
) -> Task:
    """A task from text: prompts and answers, which a space will part."""
    return Task(
        domain,
        (*first_tokens(tokenizer), *_ids(context, tokenizer)),
        tuple(_ids(prompt.rstrip(" "), tokenizer) for prompt, _ in questions),
        tuple(answer.strip() for _, answer in questions),
    )


def _ids(text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False).input_ids)


def questions_answered(
    task: Task, tokenizer: PreTrainedTokenizerBase
) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """All questions with their answers, one after the other: tokens, and which are answers'."""
    ids: list[int] = []
    marks: list[bool] = []
    stop = _ids(".", tokenizer)
    for prompt, answer in zip(task.prompts, task.answers, strict=True):
        answered = _ids(f" {answer}", tokenizer)
        ids += (*prompt, *answered, *stop)
        marks += [False] * len(prompt) + [True] * len(answered) + [False] * len(stop)
    return tuple(ids), tuple(marks)


def task_text(task: Task, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Context, questions and answers as one text, without what the tokenizer puts first."""
    return task.context[len(first_tokens(tokenizer)) :] + questions_answered(task, tokenizer)[0]
