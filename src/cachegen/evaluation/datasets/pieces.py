"""Prompts made of pieces, a few of which are left out where the room is too small for all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from transformers import PreTrainedTokenizerBase


def sizes(pieces: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens of each piece by itself."""
    return [len(ids) for ids in tokenizer(list(pieces), add_special_tokens=False).input_ids]


def kept(sizes: Sequence[int], order: Iterable[int], *, room: int) -> list[int]:
    """Which pieces stay, in their own order: one after the other in `order`, where it fits."""
    chosen = []
    for index in order:
        if sizes[index] <= room:
            room -= sizes[index]
            chosen.append(index)
    return sorted(chosen)


def outside_in(count: int) -> list[int]:
    """The first, the last, the second, the last but one and so on."""
    return [index // 2 if index % 2 == 0 else count - 1 - index // 2 for index in range(count)]
