"""What coefficients are made of: rows of tokens, keys un-rotated, the first tokens set apart.

The first tokens of a context (attention sinks) draw attention from everywhere, and so are kept at
eight bits in every level.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from cachegen.codec import matrix
from cachegen.codec.matrix import Part, Shape
from cachegen.codec.rope import RopeMap, Rotation, check_fits, rotations, turn
from cachegen.kvcache import Geometry, KVCache

# Models draw attention to whatever comes first (docs/decisions/2026-11-21-transform-codec.md).
SINKS = 4


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
    turns = turns_of(layout, rope, start=kv.start, num_tokens=kv.num_tokens, most_sinks=most_sinks)
    planes = list(kv.planes())
    for part in layout:
        skipped = num_sinks(kv.start, kv.num_tokens, part, most=most_sinks)
        for plane in part.planes:
            rows = matrix.to_rows(planes[plane][:, skipped:])
            rotation = turns[part.num_rows][plane]
            if rotation is not None:
                turn(rows, rotation, inverse=True)
            yield plane, rows.flatten(1)


def turns_of(
    layout: tuple[Part, ...],
    rope: RopeMap,
    *,
    start: int,
    num_tokens: int,
    most_sinks: int = SINKS,
) -> dict[int, tuple[Rotation | None, ...]]:
    """The rotations of the planes at the tokens that are not sinks, by the tokens they hold."""
    stop = start + num_tokens
    return {
        part.num_rows: rotations(
            rope, stop - part.num_rows + num_sinks(start, num_tokens, part, most=most_sinks), stop
        )
        for part in layout
    }
