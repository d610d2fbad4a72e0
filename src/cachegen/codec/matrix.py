"""Planes as matrices: tokens down, the channels of all planes across.

Layers that hold equally many tokens share a matrix; a complete cache is one matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cachegen.codec import matrix
from cachegen.codec.rope import RopeMap, Rotation, check_fits, rotation, turn
from cachegen.kvcache import Geometry, KVCache

Planes = Sequence[torch.Tensor]
Shape = tuple[int, int, int]

_WORDS = {1: (torch.uint8, np.uint8), 2: (torch.int16, np.uint16), 4: (torch.int32, np.uint32)}


@dataclass(frozen=True, slots=True)
class Part:
    """Planes that hold equally many tokens, and where they stand among all coefficients.

    Attributes:
        planes: indices of the planes.
        num_rows: tokens each of them holds.
        columns: int64 (coefficients of the part,): indices among the geometry's coefficients.
    """

    planes: tuple[int, ...]
    num_rows: int
    columns: np.ndarray


def plane_offsets(geometry: Geometry) -> np.ndarray:
    """First coefficient of every plane, and their total: int64 (planes + 1,)."""
    widths = [plane.width for plane in geometry.planes]
    return np.concatenate([[0], np.cumsum(widths)]).astype(np.int64)


def parts(geometry: Geometry, tokens_held: tuple[int, ...]) -> tuple[Part, ...]:
    """Group the planes by the number of tokens their layers hold, in order of appearance."""
    offsets = plane_offsets(geometry)
    grouped: dict[int, list[int]] = {}
    for plane in range(len(geometry.planes)):
        grouped.setdefault(tokens_held[plane // 2], []).append(plane)
    return tuple(
        Part(
            planes=tuple(planes),
            num_rows=held,
            columns=np.concatenate([np.arange(offsets[p], offsets[p + 1]) for p in planes]),
        )
        for held, planes in grouped.items()
    )


def plane_shapes(geometry: Geometry, tokens_held: tuple[int, ...]) -> list[Shape]:
    """(heads, tokens, dim) of every plane."""
    return [
        (plane.heads, tokens_held[index // 2], plane.dim)
        for index, plane in enumerate(geometry.planes)
    ]


def tokens_held(kv: KVCache) -> tuple[int, ...]:
    """Per layer, how many of the last tokens it holds."""
    return tuple(key.shape[1] for key in kv.keys)


def to_rows(plane: torch.Tensor) -> torch.Tensor:
    """A plane (heads, tokens, dim) as float32 (tokens, heads, dim), a copy on the CPU."""
    heads, tokens, dim = plane.shape
    return torch.empty((tokens, heads, dim), dtype=torch.float32).copy_(plane.transpose(0, 1))


def widths(geometry: Geometry, part: Part) -> list[int]:
    """Coefficients of each of the part's planes."""
    return [geometry.planes[plane].width for plane in part.planes]


def fill_plane(plane: torch.Tensor, rows: torch.Tensor) -> None:
    """Store float32 rows (tokens, heads, dim) as a plane (heads, tokens, dim) of its own dtype.

    Rounded to nearest even, once; float16 saturates.
    """
    plane.copy_(saturate(rows, plane.dtype).transpose(0, 1))


def saturate(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Float32 values within the range of float16 where that is the dtype."""
    return values.clamp(-65504.0, 65504.0) if dtype == torch.float16 else values


def empty_planes(geometry: Geometry, tokens_held: tuple[int, ...]) -> Planes:
    """Memory for every plane, in one piece: the system gets all of it back when it is freed."""
    shapes = plane_shapes(geometry, tokens_held)
    sizes = [heads * tokens * dim for heads, tokens, dim in shapes]
    pieces = torch.empty(sum(sizes), dtype=geometry.dtype).split_with_sizes(sizes)
    return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def as_words(plane: torch.Tensor) -> np.ndarray:
    """A plane's elements as unsigned integers of their size, the same memory."""
    signed, unsigned = _WORDS[plane.dtype.itemsize]
    words: np.ndarray = plane.view(signed).numpy().view(unsigned)
    return words


def from_planes(
    planes: dict[int, torch.Tensor], geometry: Geometry, *, start: int, num_tokens: int
) -> KVCache:
    """The cache of these planes, numbered as in the geometry."""
    keys = tuple(planes[2 * layer] for layer in range(geometry.num_layers))
    values = tuple(planes[2 * layer + 1] for layer in range(geometry.num_layers))
    return KVCache(keys, values, num_tokens, start)


# Models draw attention to whatever comes first (docs/decisions/2026-11-21-transform-codec.md).
SINKS = 4
# Models whose layers alternate between two rotations make each of them once.
_KEPT_ROTATIONS = 2


def num_sinks(start: int, num_tokens: int, part: Part, *, most: int = SINKS) -> int:
    """How many of a part's rows are sinks: of the first `most` of the context those it holds."""
    return sinks_among(start, num_tokens, most=most) if part.num_rows == num_tokens else 0


def sinks_among(start: int, num_tokens: int, *, most: int) -> int:
    """How many of a range's tokens are among the first `most` of the context."""
    return max(0, min(most - start, num_tokens))


def sink_shapes(
    geometry: Geometry, layout: tuple[Part, ...], *, start: int, num_tokens: int
) -> list[Shape]:
    """(heads, sinks, dim) of every plane, in the order of the parts."""
    return [
        (geometry.planes[p].heads, num_sinks(start, num_tokens, part), geometry.planes[p].dim)
        for part in layout
        for p in part.planes
    ]


def coded_planes(
    kv: KVCache, rope: RopeMap, *, most_sinks: int = SINKS
) -> Iterator[tuple[int, torch.Tensor]]:
    """Every plane's float32 rows (tokens without sinks, width), un-rotated."""
    check_fits(rope, kv.geometry)
    layout = matrix.parts(kv.geometry, matrix.tokens_held(kv))
    turns = Turns(rope, start=kv.start, num_tokens=kv.num_tokens, most_sinks=most_sinks)
    planes = list(kv.planes())
    for part in layout:
        skipped = num_sinks(kv.start, kv.num_tokens, part, most=most_sinks)
        for plane in part.planes:
            rows = matrix.to_rows(planes[plane][:, skipped:])
            by = turns.of(part, plane)
            if by is not None:
                turn(rows, by, inverse=True)
            yield plane, rows.flatten(1)


class Turns:
    """The rotations of planes at the tokens that are not sinks, made when they are needed.

    All of them at once could take more memory than the planes: of a large rotation, say, at the
    tokens that the parts hold which it does not turn.
    """

    def __init__(
        self, rope: RopeMap, *, start: int, num_tokens: int, most_sinks: int = SINKS
    ) -> None:
        """Keep what makes them; nothing is made yet."""
        self._rope, self._start, self._num_tokens = rope, start, num_tokens
        self._most_sinks = most_sinks
        self._made: dict[tuple[int, int], Rotation] = {}

    def of(self, part: Part, plane: int) -> Rotation | None:
        """The rotation of one of the part's planes."""
        index = self._rope.of_plane[plane]
        if index is None:
            return None
        key = part.num_rows, index
        if key not in self._made:
            for old in list(self._made)[: 1 - _KEPT_ROTATIONS]:
                del self._made[old]
            skipped = num_sinks(self._start, self._num_tokens, part, most=self._most_sinks)
            stop = self._start + self._num_tokens
            positions = torch.arange(stop - part.num_rows + skipped, stop)
            self._made[key] = rotation(self._rope.ropes[index], positions)
        return self._made[key]
