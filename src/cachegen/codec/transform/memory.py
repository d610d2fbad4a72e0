"""How much memory decoding `transform` takes beside the planes, told before any of it is taken."""

from __future__ import annotations

from cachegen.codec.encoded import EncodedChunk
from cachegen.codec.memory import of_block
from cachegen.codec.transform.basis import Transform

# The native synthesis works on so many columns, or a head's, and rows at a time
# (native/synthesis.cpp and synthesis_kernel.h).
_STRIP_COLUMNS, _STRIP_ROWS = 64, 48


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
