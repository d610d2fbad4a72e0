"""The gate that every coder has to pass before it is measured."""

from __future__ import annotations

import torch

from cachegen.bitstream.chunk import describe
from cachegen.errors import BitstreamError, CacheGenError, TokensMismatch
from cachegen.evaluation.coder import Coder, Tokens
from cachegen.kvcache import KVCache


class GateError(CacheGenError):
    """A coder that does not do what coders do; nothing should be measured with it."""


def check(coder: Coder, kv: KVCache, tokens: Tokens) -> None:
    """Refuse a coder unless what it decodes is the same each time, of the right shape, and near.

    Near the input is what differs from it by less than it holds itself. Where tokens are dropped
    every row is held against the nearest one of the same head. Of a shorter text only the first
    token's are compared: the others change with the text before.
    Chunks of the transform codec must refuse other tokens; those it codes otherwise need none.

    Raises:
        GateError: a coder that does something else.
    """
    data = coder.encode(kv, tokens)
    once, twice = coder.decode(data, tokens), coder.decode(data, tokens)
    name = f"{coder.method} {coder.level}"
    if coder.encode(kv, tokens) != data:
        raise GateError(f"{name} encodes differently each time")
    if once.geometry != kv.geometry or once.start != kv.start:
        raise GateError(f"{name} gives back another geometry")
    if not 0 < once.num_tokens <= kv.num_tokens or not once.is_complete:
        raise GateError(f"{name} gives back {once.num_tokens} tokens of {kv.num_tokens}")
    if not all(map(torch.equal, once.planes(), twice.planes())):
        raise GateError(f"{name} decodes differently each time")
    if not _error(kv, once, is_shorter_text=coder.is_shorter_text) < 1:
        raise GateError(f"{name} gives back something else than it got")
    if _is_predicted(data) and not _refuses(coder, data, tokens):
        raise GateError(f"{name} decodes for other tokens")


def _error(kv: KVCache, other: KVCache, *, is_shorter_text: bool) -> float:
    if other.num_tokens == kv.num_tokens:
        return _relative_error(kv, other)
    if is_shorter_text:
        return _relative_error(kv.slice(0, 1), other.slice(0, 1))
    return _relative_error(_nearest(kv, other), other)


def _relative_error(kv: KVCache, other: KVCache) -> float:
    """Energy of the difference over that of the cache."""
    pairs = list(zip(kv.planes(), other.planes(), strict=True))
    lost = sum(float((a.float() - b.float()).square().sum()) for a, b in pairs)
    return lost / sum(float(a.float().square().sum()) for a, _ in pairs)


def _nearest(kv: KVCache, other: KVCache) -> KVCache:
    """For every row of the other cache the row of the same head that is nearest."""

    def rows(whole: torch.Tensor, few: torch.Tensor) -> torch.Tensor:
        nearest = torch.cdist(few.float(), whole.float()).argmin(dim=2, keepdim=True)
        return whole.gather(1, nearest.expand(few.shape))

    found = [rows(*pair) for pair in zip(kv.planes(), other.planes(), strict=True)]
    return KVCache(tuple(found[0::2]), tuple(found[1::2]), other.num_tokens)


def _is_predicted(data: bytes) -> bool:
    """Whether it is a chunk of the transform codec, whose decoding needs the tokens."""
    try:
        return describe(data).chunk.codec == "transform"
    except BitstreamError:
        return False


def _refuses(coder: Coder, data: bytes, tokens: Tokens) -> bool:
    others = [*tokens[:-1], tokens[-1] + 1]
    try:
        coder.decode(data, others)
    except TokensMismatch:
        return True
    return False
