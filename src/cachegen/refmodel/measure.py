"""Generated tasks as token ids, for making and judging profiles of the reference model.

This module needs transformers, unlike the rest of the package.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from cachegen.engines.transformers.tasks import Task, first_tokens, task_from_text
from cachegen.engines.transformers.text_windows import Window, answer_window
from cachegen.refmodel.tasks import generate

FAMILIES = ("passkey", "records")


def retrieval_tasks(
    tokenizer: PreTrainedTokenizerBase,
    *,
    count: int,
    first_seed: int,
    filler: str,
    num_tokens: int = 1536,
    num_questions: int = 20,
    families: Sequence[str] = FAMILIES,
    domain: str = "tasks",
) -> list[Task]:
    """Tasks of the families in turn, one a seed.

    Args:
        tokenizer: the reference model's.
        count: contexts.
        first_seed: of the first of them; the next has the next seed.
        filler: text between the facts.
        num_tokens: the most tokens of a context, with what the tokenizer puts first; by default a
            chunk's, as profiles learn from.
        num_questions: questions a context. Arbitrary: 8 to 24 do.
        families: of `refmodel.FAMILIES`; the model is good at these two.
        domain: what they are measured as.
    """
    room = num_tokens - len(first_tokens(tokenizer))
    found = []
    for index in range(count):
        task = generate(
            families[index % len(families)],
            num_tokens=room,
            seed=first_seed + index,
            count_tokens=lambda text: len(tokenizer(text, add_special_tokens=False).input_ids),
            filler=filler,
            num_questions=num_questions,
        )
        questions = [(question.prompt, question.answer) for question in task.questions]
        found.append(task_from_text(domain, task.context, questions, tokenizer=tokenizer))
    return found


def task_windows(
    tokenizer: PreTrainedTokenizerBase, tasks: Sequence[Task], *, continuation_tokens: int = 128
) -> list[Window]:
    """Windows whose continuations are the tasks' questions with their answers, these marked."""
    return [
        answer_window(task, tokenizer, continuation_tokens=continuation_tokens) for task in tasks
    ]
