"""Parts in groups of coefficients, each group predicted from itself as `triangle` has it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from cachegen.codec.adaptive import triangle
from cachegen.codec.adaptive.triangle import Triangle
from cachegen.codec.symbols import LARGEST, Unrepresentable, quantise
from cachegen.kvcache import KVCache

# Arbitrary: 2^20 to 2^24 do; 16 MiB of float32 at once.
_BATCH_VALUES = 1 << 22
# Spreads take 8 bits a coefficient: below 64 rows more than an eighth of a bit a value.
_FEWEST_ROWS = 64
# Arbitrary: 8 to 32 do; narrower groups leave out most of what a layer's coefficients tell.
_NARROWEST = 16
# Arbitrary: 2 to 6 do; each costs a trial of every width.
_PROBED_LAYERS = 3


@dataclass(frozen=True, slots=True, eq=False)
class Predicted:
    """A part as integers and what predicts them.

    Attributes:
        integers: int32 (rows, coefficients).
        triangles: of its groups, in order; a few groups each.
    """

    integers: np.ndarray
    triangles: tuple[Triangle, ...]


def group_widths(num_coefficients: int, width: int) -> list[int]:
    """The coefficients of each group of a part; the last may be narrower."""
    full, left = divmod(num_coefficients, width)
    return [width] * full + [left] * (left > 0)


def regroup(pieces: Iterable[torch.Tensor], widths: Iterable[int]) -> Iterator[torch.Tensor]:
    """Pieces of a matrix, side by side, cut anew into these widths."""
    source = iter(pieces)
    held = next(source)
    for width in widths:
        parts = [held]
        while sum(part.shape[1] for part in parts) < width:
            parts.append(next(source))
        whole = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        yield whole[:, :width]
        held = whole[:, width:]


def predict(pieces: Iterable[torch.Tensor], num_coefficients: int, width: int) -> Predicted:
    """A part's scaled rows, plane by plane, as integers.

    Args:
        pieces: float32 (rows, width of the plane) in units of the steps; overwritten.
        num_coefficients: of the part.
        width: coefficients of a group; 0 predicts nothing.

    Raises:
        Unrepresentable: an integer is not one of 30 bits, or NaN.
    """
    if not width:
        return Predicted(np.concatenate([quantise(piece) for piece in pieces], axis=1), ())
    groups = regroup(pieces, group_widths(num_coefficients, width))
    found, triangles = [], []
    for batch in _batches(groups):
        _check(batch)
        learned = triangle.learn(batch, triangle.weight_step(batch.shape[2]))
        whole = triangle.quantise(batch, learned.scaled())
        _check(whole)
        found.append(whole.flatten(0, 1).T.to(torch.int32).numpy())
        triangles.append(learned)
    return Predicted(np.concatenate(found, axis=1), tuple(triangles))


def best_width(kv: KVCache, rows_of: Callable[[int], torch.Tensor], *, most: int) -> int:
    """The width of groups that makes the cache smallest, 0 where predicting does not pay.

    Estimated on a few layers that hold all tokens, whose scaled rows `rows_of` gives.
    """
    complete = [layer for layer, key in enumerate(kv.keys) if key.shape[1] == kv.num_tokens]
    if kv.num_tokens < _FEWEST_ROWS or not complete:
        return 0
    probed = dict.fromkeys(
        complete[(2 * index + 1) * len(complete) // (2 * _PROBED_LAYERS)]
        for index in range(_PROBED_LAYERS)
    )
    layers = [rows_of(layer) for layer in probed]
    width = max(layer.shape[1] for layer in layers)
    saved = {0: 0.0}
    while width >= _NARROWEST:
        if width <= min(most, kv.num_tokens):
            saved[width] = sum(_saved(layer, width) for layer in layers)
        width = -(-width // 2)
    return max(saved, key=saved.__getitem__)


def _saved(layer: torch.Tensor, width: int) -> float:
    """Bits that groups of this width save in a layer's rows (rows, coefficients)."""
    groups = [group.T for group in torch.split(layer, width, dim=1) if group.shape[1] == width]
    if not groups:
        return 0.0
    share = layer.shape[1] / (width * len(groups))
    return share * triangle.bits_saved(torch.stack(groups))


def _batches(groups: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Groups of one width together, float32 (groups, width, rows), some megabytes at once."""
    held: list[torch.Tensor] = []
    for group in groups:
        is_full = (len(held) + 1) * group.numel() > _BATCH_VALUES
        if held and (is_full or held[0].shape != group.T.shape):
            yield torch.stack(held)
            held = []
        held.append(group.T)
    if held:
        yield torch.stack(held)


def _check(values: torch.Tensor) -> None:
    if values.numel() and not bool((values.abs().max() < LARGEST).item()):
        raise Unrepresentable
