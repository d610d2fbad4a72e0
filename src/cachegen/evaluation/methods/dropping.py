"""Methods that drop tokens from a cache by the attention that they get: H2O and SnapKV.

`h2o`: Zhang et al., H2O, NeurIPS 2023, arXiv 2306.14048: half of what is kept are the tokens that
got most attention, summed over all queries of the context; the other half are the last ones. The
published rule evicts while the model reads; here, as in its authors' simulation, the sums are those
of full attention and tokens are dropped once, at the end, in its favour.

`snapkv`: Li et al., SnapKV, NeurIPS 2024, arXiv 2404.14469: kept are the last 64 tokens, and those
that these look at most, averaged over 5 neighbours: the defaults of its code
(FasterDecoding/SnapKV). In the publication the last tokens are the question, here the end of the
context: a cache that is stored is reused for questions nobody knows yet, to SnapKV's disadvantage.

In both, every KV head keeps as many tokens, but its own; attention is the mean over the query heads
of a KV head, as in kvpress. Kept keys stay rotated to where they stood. A bit for each head and
token says what is kept; the model could go on without, which costs them 0.008 bits a value where
heads have 64 channels.

`h2o+ours` and `snapkv+ours` code what is kept by this package's `adaptive` instead of keeping its
16 bits. Keys are coded rotated: rows of different heads stand for different tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch.nn.functional import avg_pool1d, pad

from cachegen.codec import matrix
from cachegen.codec.levels import UNCALIBRATED_DEFAULT
from cachegen.codec.rope import RopeMap
from cachegen.evaluation.coder import Coder, Tokens, packed_size
from cachegen.evaluation.methods.attention import from_last, received
from cachegen.evaluation.methods.planes import Reader, to_bytes
from cachegen.evaluation.methods.presets import adaptive_coder
from cachegen.kvcache import Geometry, KVCache

SHARES = (0.5, 0.25, 0.1)
_WINDOW = 64
_POOLED = 5
# A context's scores are kept for the other shares: 0.6 MB at 1,536 tokens, 30 layers, 3 KV heads.
_REMEMBERED = 64

# Of a context, float32 (kv heads, tokens) for every layer: the largest are kept.
Scores = Callable[[tuple[int, ...]], list[torch.Tensor]]
# Of scores and how many tokens are kept: which, bool (kv heads, tokens).
Rule = Callable[[torch.Tensor, int], torch.Tensor]


def h2o_scores(model: Any) -> Scores:
    """What each token gets, remembered for some contexts."""
    return lru_cache(_REMEMBERED)(partial(received, model))


def snapkv_scores(model: Any) -> Scores:
    """What the last queries pay to each token, remembered for some contexts."""
    return lru_cache(_REMEMBERED)(partial(_from_window, model))


def h2o_coders(
    scores: Scores, geometry: Geometry, *, shares: Sequence[float] = SHARES, ours: bool = False
) -> Iterator[Coder]:
    """A coder for each share of tokens that are kept."""
    return _coders("h2o", scores, heavy_and_recent, geometry, shares, ours)


def snapkv_coders(
    scores: Scores, geometry: Geometry, *, shares: Sequence[float] = SHARES, ours: bool = False
) -> Iterator[Coder]:
    """A coder for each share of tokens that are kept."""
    return _coders("snapkv", scores, seen_and_window, geometry, shares, ours)


def heavy_and_recent(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Half of them the last ones, the others those of the largest scores before."""
    last = count - count // 2
    return _largest(scores[:, : scores.shape[1] - last], count, last=last)


def seen_and_window(scores: torch.Tensor, count: int) -> torch.Tensor:
    """The window, or half of what is kept where that is less, and the largest scores before.

    Scores are averaged with those of their neighbours, which are 0 beyond either end.
    """
    last = min(_WINDOW, count - count // 2)
    before = scores[:, : scores.shape[1] - last]
    if before.shape[1]:
        before = avg_pool1d(before, _POOLED, stride=1, padding=_POOLED // 2)
    return _largest(before, count, last=last)


def _from_window(model: Any, tokens: Tokens) -> list[torch.Tensor]:
    weights = from_last(model, tokens, window=min(_WINDOW, len(tokens)))
    return [layer.sum(dim=1) for layer in weights]


def _largest(before: torch.Tensor, count: int, *, last: int) -> torch.Tensor:
    """Kept: the largest scores, the earlier of equal ones, and so many tokens behind them."""
    order = before.argsort(dim=1, descending=True, stable=True)
    largest = torch.zeros(before.shape, dtype=torch.bool)
    largest.scatter_(1, order[:, : count - last], True)
    return pad(largest, (0, last), value=True)


def _coders(
    method: str,
    scores: Scores,
    rule: Rule,
    geometry: Geometry,
    shares: Sequence[float],
    ours: bool,
) -> Iterator[Coder]:
    pairs = zip(geometry.planes[0::2], geometry.planes[1::2], strict=True)
    if any(key.heads != value.heads for key, value in pairs):
        raise ValueError(f"{method} expects as many heads of keys as of values in every layer")
    inner = adaptive_coder(RopeMap.none(len(geometry.planes)), UNCALIBRATED_DEFAULT)
    for share in shares:
        if ours:
            encode = partial(_encode, scores, rule, share, inner)
            yield Coder(f"{method}+ours", f"{share:g}", encode, partial(_decode, geometry, inner))
        else:
            encode = partial(_encode, scores, rule, share, None)
            yield Coder(method, f"{share:g}", encode, partial(_decode, geometry, None))


def _encode(
    scores: Scores, rule: Rule, share: float, inner: Coder | None, kv: KVCache, tokens: Tokens
) -> bytes:
    count = max(1, round(share * len(tokens)))
    masks = [rule(layer, count) for layer in scores(tuple(tokens))]
    bits = np.packbits(torch.cat(masks).numpy().reshape(-1)).tobytes()
    small = kept(kv, masks)
    if inner is not None:
        return bits + inner.encode(small, tokens[:count])
    return bits + b"".join(map(to_bytes, small.planes()))


def kept(kv: KVCache, masks: Sequence[torch.Tensor]) -> KVCache:
    """What is left, in order: a cache of fewer tokens, from 0.

    Args:
        kv: the whole.
        masks: of every layer bool (kv heads, tokens), equally many of each head.
    """
    layers = zip(kv.keys, kv.values, masks, strict=True)
    return KVCache.from_layers([(_rows(k, mask), _rows(v, mask)) for k, v, mask in layers])


def _rows(plane: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return plane[mask].view(len(plane), -1, plane.shape[2])


def _decode(geometry: Geometry, inner: Coder | None, data: bytes, tokens: Tokens) -> KVCache:
    reader = Reader(data)
    heads = sum(plane.heads for plane in geometry.planes[0::2])
    bits = reader.take(packed_size(heads * len(tokens), 1))
    count = int(np.unpackbits(np.frombuffer(bits, np.uint8)).sum()) // heads
    if inner is not None:
        return inner.decode(reader.rest(), tokens[:count])
    planes = {}
    for index, plane in enumerate(geometry.planes):
        planes[index] = reader.plane((plane.heads, count, plane.dim), geometry.dtype)
    reader.end()
    return matrix.from_planes(planes, geometry, start=0, num_tokens=count)
