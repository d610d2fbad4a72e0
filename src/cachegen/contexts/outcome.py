"""What became of a chunk that was looked up or loaded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoadedChunk:
    """What became of a token range.

    Attributes:
        start: first token.
        stop: token after the last.
        level: level it was loaded at; `text` where it was recomputed; None where it is missing
            from the result.
        size_bytes: size of the object it was decoded from.
        reason: what went wrong with it on the way; empty where nothing did.
        retries: how often an object of it was asked for again.
    """

    start: int
    stop: int
    level: str | None
    size_bytes: int = 0
    reason: str = ""
    retries: int = 0
