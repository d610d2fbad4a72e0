"""The outcome of a chunk that was looked up or loaded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoadedChunk:
    """The outcome of a token range.

    Attributes:
        start: first token.
        stop: token after the last.
        level: level it was loaded at; `text` if it was recomputed; None if it is missing from the
            result.
        size_bytes: size of the objects it was decoded from.
        reason: the errors on the way; empty if there were none.
        retries: how often an object of it was requested again.
    """

    start: int
    stop: int
    level: str | None
    size_bytes: int = 0
    reason: str = ""
    retries: int = 0
