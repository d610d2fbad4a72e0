"""The figures behind the three observations, from caches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from cachegen.codec import plain
from cachegen.codec.matrix import coded_planes
from cachegen.codec.paper import GROUP_TOKENS
from cachegen.codec.rope import RopeMap
from cachegen.engines.transformers.quality import evaluator
from cachegen.engines.transformers.text_windows import Window
from cachegen.evaluation.coder import Tokens
from cachegen.kvcache import KVCache

COARSE_STEP = 1.2
ENTROPY_STEP = 0.5
THIRDS = ("first", "middle", "last")
GROUPINGS = ("nothing", "token", "channel", "layer", "channel x layer")
Rows = list[dict[str, object]]


def row(observation: str, what: str, value: float) -> dict[str, object]:
    """One figure."""
    return {"observation": observation, "what": what, "value": float(f"{value:.5g}")}


def locality(caches: Sequence[KVCache], rope: RopeMap) -> Rows:
    """O1: per layer, for keys as cached and un-rotated, and for values."""
    none = RopeMap.none(len(rope.of_plane))
    rows = []
    for name, which, first in (("K as cached", none, 0), ("K un-rotated", rope, 0), ("V", rope, 1)):
        every = [dict(coded_planes(kv, which)) for kv in caches]
        for plane in range(first, len(rope.of_plane), 2):
            ratio = _values_over_deltas([planes[plane] for planes in every])
            rows.append(row("O1", f"{name}, layer {plane // 2}", ratio))
    return rows


def _values_over_deltas(rows: Sequence[torch.Tensor]) -> float:
    """Variance of the values around the channel means over that of deltas from the anchors."""
    mean = torch.cat(list(rows)).mean(dim=0)
    values = deltas = count = 0.0
    for one in rows:
        groups = one[: len(one) // GROUP_TOKENS * GROUP_TOKENS].view(-1, GROUP_TOKENS, one.shape[1])
        values += float((groups[:, 1:] - mean).square().sum())
        off = groups[:, 1:] - groups[:, :1]
        deltas += float(off.square().sum())
        count += off.numel()
    return values / deltas


def sensitivity(
    model: Any, windows: Sequence[Window], caches: Sequence[KVCache], rope: RopeMap
) -> Rows:
    """O2: KL with a third of the layers rounded coarsely, the others as they are."""
    found = plain.statistics(caches, rope)
    coding = plain.blank_model(found, rope, COARSE_STEP)
    judge = evaluator(model, {"all": windows})
    rows = []
    for third, name in enumerate(THIRDS):

        def partly(kv: KVCache, tokens: Tokens, *, third: int = third) -> KVCache:
            return _mix(kv, plain.roundtrip(kv, coding), third)

        rows.append(row("O2", f"KL, {name} third coarse", judge(partly)["all"].kl))
    return rows


def _mix(kv: KVCache, coded: KVCache, third: int) -> KVCache:
    """The layers of a third from `coded`, the others from `kv`."""
    layers = [
        (coded if 3 * layer // kv.num_layers == third else kv).slice(0, kv.num_tokens)
        for layer in range(kv.num_layers)
    ]
    keys = tuple(source.keys[layer] for layer, source in enumerate(layers))
    values = tuple(source.values[layer] for layer, source in enumerate(layers))
    return KVCache(keys, values, kv.num_tokens, kv.start)


def dependence(caches: Sequence[KVCache], rope: RopeMap) -> Rows:
    """O3: entropy by grouping, keys as cached and values together, as the paper has them."""
    none = RopeMap.none(len(rope.of_plane))
    rms = plain.statistics(caches, none).rms
    symbols = np.stack([_rounded(kv, none, rms) for kv in caches])
    bits = {name: _entropy(symbols, name) for name in GROUPINGS}
    return [row("O3", f"bits, tables by {name}", value) for name, value in bits.items()]


def _rounded(kv: KVCache, rope: RopeMap, rms: np.ndarray) -> np.ndarray:
    """Integers (planes, tokens, channels); all planes have equally many channels."""
    planes = [
        (rows / (ENTROPY_STEP * float(rms[plane]))).round().clamp(-127, 127)
        for plane, rows in coded_planes(kv, rope)
    ]
    return torch.stack(planes).to(torch.int16).numpy()


def _entropy(symbols: np.ndarray, grouping: str) -> float:
    """Bits per value of symbols (contexts, planes, tokens, channels) with a table per group.

    Keys and values have tables of their own in every grouping but the first.
    """
    _, planes, tokens, channels = symbols.shape
    plane, token, channel = np.ogrid[:planes, :tokens, :channels]
    members: dict[str, Callable[[], np.ndarray]] = {
        "nothing": lambda: 0 * plane,
        "token": lambda: token * 2 + plane % 2,
        "channel": lambda: channel * 2 + plane % 2,
        "layer": partial(np.asarray, plane),
        "channel x layer": lambda: plane * channels + channel,
    }
    group = np.broadcast_to(members[grouping](), symbols.shape[1:])
    flat = (group * 256 + 128)[None] + symbols
    counts = np.bincount(flat.ravel()).astype(np.float64)
    counts = np.pad(counts, (0, -len(counts) % 256)).reshape(-1, 256)
    totals = counts.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = np.where(counts > 0, -counts * np.log2(counts / totals), 0.0)
    return float(bits.sum() / symbols.size)
