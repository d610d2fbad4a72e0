"""From integers to planes: the second half of preset `transform`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch

from cachegen import kernels
from cachegen.codec import matrix
from cachegen.codec.fixed import unpack_planes
from cachegen.codec.rope import RopeMap
from cachegen.codec.transform.basis import IntegerBasis, Transform, ids_before
from cachegen.kernels.layout import Lookup, PlaneLayout, PlaneRotation, Synthesis
from cachegen.kvcache import Geometry, KVCache

_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


@dataclass(frozen=True, slots=True, eq=False)
class Coefficients:
    """The coefficients of a group.

    Attributes:
        steps: int16 (rows, coefficients); those beyond a row's depth mean nothing.
        depths: int64 (rows,): the leading coefficients of a row that may be other than zero.
        multipliers: int64 (rows,): what a step of the row is on the grid of the basis.
    """

    steps: np.ndarray
    depths: np.ndarray
    multipliers: np.ndarray


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
    rows: np.ndarray,
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
        rows: int64 (rows,): the order of the coefficients' rows, each of which is one of the last
            tokens, counted from the first that is not a sink.
        threads: worker threads.

    Raises:
        BitstreamError: sinks that are not those of these tokens.
    """
    num_tokens = len(tokens)
    sizes = [shape.width * num_tokens for shape in geometry.planes]
    offsets = list(accumulate(sizes, initial=0))
    elements = torch.empty(offsets[-1], dtype=geometry.dtype)
    skipped = num_tokens - len(rows)
    turns = _Turns(rope, start + skipped + rows)
    ids = ids_before(tokens, num_lags=len(transform.features), num_rows=len(rows))
    ids = [own[rows] for own in ids]
    for group, basis, own in zip(transform.groups, bases, coefficients, strict=True):
        used = turns.used_by(group.planes)
        work = Synthesis(
            coefficients=own.steps,
            basis=basis.rows[: own.steps.shape[1]],
            scales=basis.scales,
            means=group.means,
            planes=[
                PlaneLayout(
                    geometry.planes[plane].heads,
                    geometry.planes[plane].dim,
                    offsets[plane],
                    used.index(index) if (index := rope.of_plane[plane]) is not None else None,
                )
                for plane in group.planes
                if geometry.planes[plane].width
            ],
            rotations=turns.of(used),
            num_tokens=num_tokens,
            tokens=skipped + rows,
            dtype=_NAMES[geometry.dtype],
            lookups=_lookups(transform, basis.prediction, ids),
            depths=own.depths,
            multipliers=own.multipliers,
            tail=basis.tail,
        )
        kernels.synthesise(work, _as_numpy(elements), threads=threads)
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


class _Turns:
    """Rotations at positions, for one group after the other: those that its planes use.

    A profile may name 255 of them: all at once could take more memory than the planes.
    """

    def __init__(self, rope: RopeMap, positions: np.ndarray) -> None:
        """Make nothing yet."""
        self._rope, self._positions = rope, positions.astype(np.float32)[:, None]
        self._made: dict[int, PlaneRotation] = {}

    def used_by(self, planes: Iterable[int]) -> tuple[int, ...]:
        """The rotations of planes, each once."""
        found = (self._rope.of_plane[plane] for plane in planes)
        return tuple(dict.fromkeys(index for index in found if index is not None))

    def of(self, used: Sequence[int]) -> list[PlaneRotation]:
        """These, kept until others are asked for."""
        self._made = {index: self._made.get(index) or self._make(index) for index in used}
        return list(self._made.values())

    def _make(self, index: int) -> PlaneRotation:
        one = self._rope.ropes[index]
        angle = self._positions * np.array(one.inverse_frequencies, dtype=np.float32)
        return PlaneRotation(np.cos(angle), np.sin(angle), one.interleaved)
