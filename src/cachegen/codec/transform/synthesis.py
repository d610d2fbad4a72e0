"""From integers to planes: the second half of preset `transform`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch

from cachegen import kernels
from cachegen.codec import matrix
from cachegen.codec.encoded import EncodedChunk
from cachegen.codec.fixed import unpack_planes
from cachegen.codec.memory import of_block
from cachegen.codec.rope import RopeMap
from cachegen.codec.transform.basis import Transform, ids_before
from cachegen.codec.transform.level import TransformLevel
from cachegen.kernels.layout import Lookup, PlaneLayout, PlaneRotation, Synthesis
from cachegen.kvcache import Geometry, KVCache

# The native synthesis works on so many columns, or a head's, and rows at a time
# (native/synthesis.cpp and synthesis_kernel.h).
_STRIP_COLUMNS, _STRIP_ROWS = 64, 48
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


@dataclass(frozen=True, slots=True, eq=False)
class ChunkRows:
    """What is known of a chunk beside its coefficients.

    Attributes:
        tokens: ids of all tokens covered.
        sinks: the arrays `scales` and `codes` of the tokens before the rows.
        geometry: planes and dtype of the cache.
        start: absolute position of the first token.
        order: int64 (rows,): the order of the coefficients' rows, each of which is one of the last
            tokens, counted from the first that is not a sink.
    """

    tokens: Sequence[int] | np.ndarray
    sinks: dict[str, np.ndarray]
    geometry: Geometry
    start: int
    order: np.ndarray


def synthesise(
    coefficients: Iterable[Coefficients], chunk: ChunkRows, level: TransformLevel, *, threads: int
) -> KVCache:
    """The cache behind coefficients.

    Args:
        coefficients: of every group.
        chunk: whose they are.
        level: what they were coded with.
        threads: worker threads.

    Raises:
        BitstreamError: sinks that are not those of these tokens.
    """
    transform, geometry, rows = level.transform, chunk.geometry, chunk.order
    num_tokens = len(chunk.tokens)
    sizes = [shape.width * num_tokens for shape in geometry.planes]
    offsets = list(accumulate(sizes, initial=0))
    elements = torch.empty(offsets[-1], dtype=geometry.dtype)
    skipped = num_tokens - len(rows)
    turns = _Turns(level.rope, chunk.start + skipped + rows)
    ids = ids_before(chunk.tokens, num_lags=len(transform.features), num_rows=len(rows))
    ids = [own[rows] for own in ids]
    for group, basis, own in zip(transform.groups, level.bases, coefficients, strict=True):
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
                    used.index(index)
                    if (index := level.rope.of_plane[plane]) is not None
                    else None,
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
        for index, first in enumerate(unpack_planes(chunk.sinks, shapes)):
            matrix.fill_plane(planes[index][:, :skipped], first.transpose(0, 1))
    return matrix.from_planes(planes, geometry, start=chunk.start, num_tokens=num_tokens)


def working_bytes(
    chunk: EncodedChunk,
    transform: Transform,
    num_active: tuple[tuple[tuple[int, ...], ...], ...],
    *,
    tables: int,
    threads: int,
) -> int:
    """At most so much memory `rung.decode` takes beside the planes, the chunk and the profile.

    Args:
        chunk: of any rung.
        transform: of its profile.
        num_active: per rung, class and group.
        tables: of the profile.
        threads: worker threads.
    """
    rows, planes = chunk.num_tokens, chunk.geometry.planes
    deepest = max((count for rung in num_active for own in rung for count in own), default=0)
    # A group's coefficients, once as they are and once as the kernel packs them, with its digits.
    steps = 8 * rows * deepest
    # Its symbols, twice, and which are escapes; some of it is as of one block.
    blocks = max((of_block(one, tables, threads=threads) for one in chunk.blocks), default=0)
    blocks += 2 * rows * deepest
    # Ids at each lag, twice; positions, depths, multipliers and their copies; 8 bytes each.
    lags, features = len(transform.features), transform.num_features
    ids = 8 * rows * (2 * lags + 16)
    # Cosines, sines and angles of the rotations that a group turns by.
    turns = (
        12
        * rows
        * max(
            (
                sum(planes[p].dim for p in group.planes if p < len(planes))
                for group in transform.groups
            ),
            default=0,
        )
    )
    # What the text adds: the rows of features that are named, and of a strip of columns their sums.
    vocabulary = max((len(table) for table in transform.features), default=0)
    widest = max((shape.dim for shape in planes), default=0) + 2 * _STRIP_COLUMNS
    lookups = 4 * lags * vocabulary + 4 * rows * features + 4 * threads * lags * rows * widest
    sums = threads * _STRIP_ROWS * 4 * widest
    sinks = 16 * transform.num_sinks * max((shape.width for shape in planes), default=0)
    return steps + blocks + ids + turns + lookups + sums + sinks


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
