"""Kinds of layers, by how far their attention reaches (FORMAT.md, section 5)."""

from __future__ import annotations

import re
from collections.abc import Sequence

ALL = "all"
FULL = "full"
KIND = re.compile(r"all|full|window-[1-9][0-9]{0,9}")
# FORMAT.md, section 5.
LARGEST_WINDOW = 2**32 - 1


def kind_of(window: int) -> str:
    """The kind of a layer whose tokens attend to so many, themselves included; 0 for all."""
    return FULL if window == 0 else f"window-{window}"


def window_of(kind: str) -> int:
    """The inverse of `kind_of`; 0 for `all` too."""
    return 0 if kind in (ALL, FULL) else int(kind.removeprefix("window-"))


def layers_by_kind(windows: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """The layers of each kind, by the windows of all layers; `full` comes first."""
    return {
        kind_of(window): tuple(layer for layer, own in enumerate(windows) if own == window)
        for window in sorted(set(windows))
    }


def tokens_before(kind: str, place: int) -> int:
    """How many tokens before a place layers need to go on there.

    At least one where there is any: a window without a past is a shape that nobody would know.
    """
    window = window_of(kind)
    return place if window == 0 else min(place, max(window - 1, 1))
