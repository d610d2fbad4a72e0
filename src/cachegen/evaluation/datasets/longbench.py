"""LongBench's tasks, from finished prompts (https://github.com/THUDM/LongBench).

Prompts that are too long are cut in the middle. Like there, most are wrapped in the chat template,
examples with answers (few-shot) and code are not.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from cachegen.engines.transformers.text_windows import evenly
from cachegen.evaluation.case import Case
from cachegen.evaluation.datasets.dataset import Dataset, Request
from cachegen.evaluation.datasets.files import rows
from cachegen.evaluation.datasets.prompts import Prompt, Wrapping, template_or, to_case

# The place in a prompt where its question begins.
Split = Callable[[str], int]


def from_last(marker: str) -> Split:
    """The question begins with the last `marker`."""
    return lambda prompt: prompt.rindex(marker)


def longbench(
    name: str,
    *,
    file: str,
    split: Split,
    score: str,
    most_new_tokens: int,
    is_wrapped: bool = True,
) -> Dataset:
    """One of the tasks; `most_new_tokens` are LongBench's own."""
    path = f"longbench/{file}.jsonl.xz"
    load = partial(
        _load,
        dataset=name,
        path=path,
        split=split,
        score=score,
        most_new_tokens=most_new_tokens,
        is_wrapped=is_wrapped,
    )
    return Dataset(name, (path,), load)


def _load(
    request: Request,
    *,
    dataset: str,
    path: str,
    split: Split,
    score: str,
    most_new_tokens: int,
    is_wrapped: bool,
) -> list[Case]:
    wrapping = template_or(Wrapping(), request.tokenizer) if is_wrapped else Wrapping()
    numbered = enumerate(rows(request.data / path, keys=("prompt", "answers")))
    cases = []
    for index, row in evenly(list(numbered), request.count):
        text = row["prompt"]
        try:
            place = split(text)
        except ValueError as exc:
            where = f"{request.data / path}, line {index + 1}"
            raise ValueError(f"{where}: expected a prompt of {dataset}, found no question") from exc
        prompt = Prompt(text[:place], text[place:], tuple(row["answers"]), wrapping=wrapping)
        cases.append(
            to_case(
                prompt,
                request,
                dataset=dataset,
                name=f"{index:03}",
                score=score,
                most_new_tokens=most_new_tokens,
            )
        )
    return cases
