"""Contexts of calibration text, for the methods that learn as profiles do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cachegen.engines.transformers.tasks import first_tokens
from cachegen.engines.transformers.text_windows import cut_windows
from cachegen.evaluation.texts import texts_of


def texts_to_learn_from(
    tokenizer: Any, data: Path, *, num_tokens: int, count: int
) -> list[tuple[int, ...]]:
    """Token ids of contexts, spread over the first three quarters of every text.

    Args:
        tokenizer: of the model.
        data: folder of texts, see `texts_of`.
        num_tokens: of each context.
        count: contexts.

    Raises:
        OSError: a file is missing.
        ValueError: a file is not what its name says, or the texts are too short.
    """

    def ids(text: str) -> list[int]:
        found: list[int] = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return found

    texts = texts_of(data, lambda text: len(ids(text)))
    windows = cut_windows(
        [found[: len(found) * 3 // 4] for found in map(ids, texts.values())],
        num_tokens=num_tokens,
        continuation_tokens=1,
        count=count,
        prefix=first_tokens(tokenizer),
    )
    return [window.context for window in windows]
