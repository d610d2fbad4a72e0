"""From integers to planes: the second half of preset `transform`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch

from cachegen import kernels
from cachegen.codec import matrix
from cachegen.codec.basis import IntegerBasis, Transform, ids_before
from cachegen.codec.fixed import unpack_planes
from cachegen.codec.rope import RopeMap
from cachegen.kernels.layout import Lookup, PlaneLayout, Turn
from cachegen.kvcache import Geometry, KVCache

_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


@dataclass(frozen=True, slots=True, eq=False)
class Coefficients:
    """The coefficients of a group, in any order.

    Attributes:
        steps: int16 (rows, active coefficients), in 1/32 steps.
        basis: int16 (active coefficients, columns): what each stands for, in the same order.
    """

    steps: np.ndarray
    basis: np.ndarray


def synthesise(
    coefficients: Iterable[Coefficients],
    tokens: Sequence[int] | np.ndarray,
    sinks: dict[str, np.ndarray],
    transform: Transform,
    bases: Sequence[IntegerBasis],
    rope: RopeMap,
    geometry: Geometry,
    *,
    start: int,
    num_rows: int,
    threads: int,
) -> KVCache:
    """The cache behind coefficients.

    Args:
        coefficients: of every group.
        tokens: ids of all tokens covered.
        sinks: the arrays `scales` and `codes` of the tokens before the rows.
        transform: what it was analysed with.
        bases: per group, the integers of its level.
        rope: rotations to put back.
        geometry: planes and dtype of the cache.
        start: absolute position of the first token.
        num_rows: the last of the tokens, which the coefficients are of; sinks come before.
        threads: worker threads.

    Raises:
        BitstreamError: sinks that are not those of these tokens.
    """
    num_tokens = len(tokens)
    sizes = [shape.width * num_tokens for shape in geometry.planes]
    offsets = list(accumulate(sizes, initial=0))
    elements = torch.empty(offsets[-1], dtype=geometry.dtype)
    skipped = num_tokens - num_rows
    turns = _turns(rope, start + skipped, start + num_tokens)
    ids = ids_before(tokens, num_lags=len(transform.features), num_rows=num_rows)
    for group, basis, own in zip(transform.groups, bases, coefficients, strict=True):
        kernels.synthesise(
            own.steps,
            own.basis,
            basis.scales,
            group.means,
            _as_numpy(elements),
            lookups=_lookups(transform, basis.rows[len(own.basis) :], ids),
            planes=[
                PlaneLayout(
                    geometry.planes[plane].heads,
                    geometry.planes[plane].dim,
                    offsets[plane],
                    rope.of_plane[plane],
                )
                for plane in group.planes
                if geometry.planes[plane].width
            ],
            rotations=turns,
            num_tokens=num_tokens,
            tokens=np.arange(skipped, num_tokens),
            dtype=_NAMES[geometry.dtype],
            threads=threads,
        )
    pieces = elements.split_with_sizes(sizes)
    planes = {
        index: piece.view(shape.heads, num_tokens, shape.dim)
        for index, (shape, piece) in enumerate(zip(geometry.planes, pieces, strict=True))
    }
    if skipped:
        shapes = [(shape.heads, skipped, shape.dim) for shape in geometry.planes]
        for index, first in enumerate(unpack_planes(sinks, shapes)):
            matrix.fill_plane(planes[index][:, :skipped], first.transpose(0, 1))
    return matrix.from_planes(planes, geometry, start=start, num_tokens=num_tokens)


def _as_numpy(elements: torch.Tensor) -> np.ndarray:
    if elements.dtype == torch.float32:
        return elements.numpy()
    return elements.view(torch.int16).numpy().view(np.uint16)


def _lookups(
    transform: Transform, prediction: np.ndarray, ids: Sequence[np.ndarray]
) -> list[Lookup]:
    """What the text adds: of each lag's features, with their own rows of the prediction."""
    lookups, first = [], 0
    for table, own in zip(transform.features, ids, strict=True):
        stop = first + table.shape[1]
        lookups.append(Lookup(table, own, prediction[first:stop]))
        first = stop
    return lookups


def _turns(rope: RopeMap, first: int, stop: int) -> list[Turn]:
    positions = np.arange(first, stop).astype(np.float32)[:, None]
    angles = [positions * np.array(one.inverse_frequencies, dtype=np.float32) for one in rope.ropes]
    return [
        Turn(np.cos(angle), np.sin(angle), one.interleaved)
        for angle, one in zip(angles, rope.ropes, strict=True)
    ]
