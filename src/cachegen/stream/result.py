"""What a load gives back: the cache, and where the time and the bytes went."""

from __future__ import annotations

from dataclasses import dataclass

from cachegen.kvcache import KVCache


@dataclass(frozen=True, slots=True)
class LoadedChunk:
    """What became of a token range.

    Attributes:
        start: first token.
        stop: token after the last.
        level: level it was loaded at; `text` where it was recomputed; None where it is missing
            from the result.
        size_bytes: size of the object it was decoded from.
        reason: why it is not what was asked for; empty where it is.
    """

    start: int
    stop: int
    level: str | None
    size_bytes: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class LoadResult:
    """A loaded prefix of a context.

    The parts of the time are those of the work: fetching overlaps decoding, so together they
    may exceed the total.

    Attributes:
        kv: keys and values of the first tokens; None when there are none.
        num_tokens: how many tokens.
        exact: whether they are bit for bit what a model computed, or recomputed on top of that.
        total_s: from the call to the result.
        lookup_s: finding the prefix, reading its manifest and profile.
        fetch_s: transfers.
        decode_s: decoding and joining.
        recompute_s: in the `recompute` callable.
        size_bytes: bytes of chunks transferred, of use or not.
        chunks: what became of each token range, in order.
    """

    kv: KVCache | None
    num_tokens: int
    exact: bool
    total_s: float
    lookup_s: float
    fetch_s: float
    decode_s: float
    recompute_s: float
    size_bytes: int
    chunks: tuple[LoadedChunk, ...]
