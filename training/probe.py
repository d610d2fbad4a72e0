"""How well a model does: exact match on generated tasks, and loss on held-out text."""

import numpy as np
import torch
from corpus_tokens import Tokens
from transformers import DynamicCache, PreTrainedTokenizerFast
from transformers import PreTrainedModel as Model

from cachegen.refmodel.tasks import DocumentTask, Question


def count_tokens_with(tokenizer: PreTrainedTokenizerFast):
    backend = tokenizer.backend_tokenizer
    return lambda text: len(backend.encode(text, add_special_tokens=False).ids)


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids


def answer_text(question: Question) -> str:
    """The answer as it continues the prompt: after a space, save behind an opening bracket."""
    return question.answer if question.prompt.endswith("<") else f" {question.answer}"


@torch.inference_mode()
def correct_answers(
    model: Model, tokenizer: PreTrainedTokenizerFast, task: DocumentTask
) -> list[bool]:
    """For each question, whether every token of the answer is the most likely one."""
    device = model.device
    context = torch.tensor(
        [[tokenizer.bos_token_id, *encode(tokenizer, task.context)]], device=device
    )
    cache = DynamicCache(config=model.config)
    model(input_ids=context, past_key_values=cache, use_cache=True, logits_to_keep=1)
    cache.batch_repeat_interleave(len(task.questions))
    prompts = [encode(tokenizer, question.prompt) for question in task.questions]
    answers = [encode(tokenizer, answer_text(question)) for question in task.questions]
    rows = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)
    best = model(input_ids=ids, past_key_values=cache, use_cache=True).logits.argmax(-1).tolist()
    return [
        row[len(prompt) - 1 : len(prompt) + len(answer) - 1] == answer
        for row, prompt, answer in zip(best, prompts, answers, strict=True)
    ]


@torch.inference_mode()
def text_loss(model: Model, tokens: Tokens, *, length: int, num_windows: int) -> float:
    """Mean loss in nats per token over evenly spaced windows."""
    starts = np.linspace(0, len(tokens) - length - 1, num_windows).astype(int)
    losses = []
    for start in starts:
        ids = torch.tensor(
            tokens[start : start + length].astype(np.int64)[None], device=model.device
        )
        losses.append(model(input_ids=ids, labels=ids).loss.item())
    return float(np.mean(losses))
