"""What a dataset is: a name, the files that it is made from, and how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from cachegen.evaluation.case import Case


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of a dataset.

    Attributes:
        data: folder of the files.
        tokenizer: of the model.
        context_tokens: the most tokens of a case: its context and what is read behind it. Those
            of an answer come on top.
        count: the most cases.
        seed: of what is drawn.
    """

    data: Path
    tokenizer: PreTrainedTokenizerBase
    context_tokens: int
    count: int
    seed: int


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset.

    Attributes:
        name: as `--datasets` and the rows say it.
        files: in the folder of data; none where all of it ships with the package.
        load: makes the cases, the same ones for the same request.
    """

    name: str
    files: tuple[str, ...]
    load: Callable[[Request], list[Case]]
