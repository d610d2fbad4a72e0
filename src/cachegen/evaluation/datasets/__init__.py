"""The datasets of the evaluation: each gives cases, cut to a model's room."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from cachegen.evaluation.case import Case
from cachegen.evaluation.datasets import (
    lcc,
    lines,
    longchat,
    multifieldqa,
    narrativeqa,
    passkey,
    qasper,
    topics,
    triviaqa,
    wikitext,
)
from cachegen.evaluation.datasets.dataset import Dataset, Request

_ALL = (
    longchat,
    triviaqa,
    narrativeqa,
    wikitext,
    topics,
    lines,
    passkey,
    qasper,
    multifieldqa,
    lcc,
)
_DATASETS: dict[str, Dataset] = {module.DATASET.name: module.DATASET for module in _ALL}


def names() -> tuple[str, ...]:
    """All datasets, the paper's four first."""
    return tuple(_DATASETS)


def missing_files(names: Sequence[str], data: Path) -> dict[str, tuple[str, ...]]:
    """Which datasets lack files, and which of the folder of data they are.

    Raises:
        ValueError: there is no dataset of a name.
    """
    absent = {
        name: tuple(file for file in _dataset(name).files if not (data / file).is_file())
        for name in names
    }
    return {name: files for name, files in absent.items() if files}


def load(
    names: Sequence[str],
    data: Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    context_tokens: int,
    count: int,
    seed: int,
) -> dict[str, list[Case]]:
    """The cases of some datasets.

    Args:
        names: of the datasets.
        data: folder of their files.
        tokenizer: of the model.
        context_tokens: the most tokens of a case: its context and what is read behind it. Those
            of an answer come on top.
        count: the most cases of each dataset; some have fewer.
        seed: of what is drawn at random.

    Raises:
        ValueError: a name is unknown, a file is not there or is not what its name says, or
            contexts are too short for a dataset.
    """
    missing = missing_files(names, data)
    if missing:
        parts = [f"{', '.join(files)} (without which no {name})" for name, files in missing.items()]
        raise ValueError(
            f"{data} lacks {'; '.join(parts)}: name a folder that has them, or leave "
            f"{', '.join(missing)} out"
        )
    request = Request(data, tokenizer, context_tokens=context_tokens, count=count, seed=seed)
    return {name: _dataset(name).load(request) for name in names}


def _dataset(name: str) -> Dataset:
    if name not in _DATASETS:
        raise ValueError(f"no dataset is named {name!r}; there are {', '.join(_DATASETS)}")
    return _DATASETS[name]
