"""How much memory decoding takes, told before any of it is taken; and what is kept of a profile.

A chunk of a few hundred bytes may claim gigabytes of planes, and decoders need memory beside the
planes. So each codec has a bound of what it takes beside them, made from sizes alone; the numbers
are bytes, counted from the code for the largest of what is alive at once, and held against what
processes take by `tests/codec/test_peaks.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

import numpy as np

from cachegen.codec.blocks import PASSES
from cachegen.codec.encoded import Block, EncodedChunk
from cachegen.errors import BitstreamError
from cachegen.kernels.layout import MAX_TABLES_PER_SUBSTREAM
from cachegen.kvcache import PlaneShape

# FORMAT.md, section 1: the limit of decoded planes unless a caller gives another.
MAX_PLANES_BYTES = 2 << 30
# Of planes and what decoding takes beside them. Chunks of real models with planes of 2 GiB take up
# to 4.1 GiB by these bounds (`tests/codec/test_memory.py`): whatever is within the first limit
# decodes.
MAX_DECODING_BYTES = 5 << 30

# Indices of a coefficient: of its part, its table, its place; 8 bytes each, and copies of them.
_OF_ALL_COEFFICIENTS = 48
_OF_BLOCK_COEFFICIENTS = 112
# Counts of escapes in each row.
_OF_ROW = 40
# Places of an escape in the block and in its plane.
OF_ESCAPE = 48
# A substream's place, size and status in the native decoder.
_OF_SUBSTREAM = 64
# A table of frequencies, twice, and the decoder's of 4,096 entries.
_FREQUENCIES, _DECODE_TABLE = 1024, 16_384
# Up to so many tables of a block the decoder makes once; beyond, those of each substream
# (native/block.cpp).
_SHARED_TABLES = 256
# A table that a chunk brings: 256 frequencies, where they begin, and what checks hold.
_OF_OWN_TABLE = 640
# A frequency of a rotation: a number of Python, in lists and a tensor.
_OF_FREQUENCY = 48


def check_memory(chunk: EncodedChunk, working_bytes: int, max_bytes: int) -> None:
    """Refuse a chunk that would take too much memory.

    Raises:
        BitstreamError: its planes and what decoding takes beside them exceed the limit.
    """
    planes = planes_bytes(chunk)
    if planes + working_bytes > max_bytes:
        raise BitstreamError(
            f"planes of {planes} bytes, and {working_bytes} that decoding takes beside them, "
            f"exceed the limit of {max_bytes}; raise `max_bytes` if you trust the source",
            field="geometry",
        )


def planes_bytes(chunk: EncodedChunk) -> int:
    """What the planes of a chunk take."""
    values = sum(shape.width * tokens for shape, tokens in _planes(chunk))
    return values * chunk.geometry.dtype.itemsize


def of_packed(chunk: EncodedChunk) -> int:
    """For `packed`: a plane of codes, of float32, of float32 within bounds; its scales."""
    return _largest(chunk, lambda one, tokens: 9 * one.width * tokens + 8 * one.heads * tokens)


def of_lossless(chunk: EncodedChunk) -> int:
    """For `lossless`: a part's top bytes; of a plane its bytes, its words, and these turned."""
    of_value = 3 + 4 * chunk.geometry.dtype.itemsize
    planes = _largest(chunk, lambda one, tokens: of_value * one.width * tokens)
    return planes + of_model(chunk) + max(map(_own(chunk), chunk.blocks), default=0)


def of_plain(chunk: EncodedChunk, *, tables: int = 0, threads: int = 2) -> int:
    """For `plain`: a part's symbols, a plane in float32 with its rotations, its escapes."""
    blocks = (of_block(block, _tables(chunk, tables), threads=threads) for block in chunk.blocks)
    return _largest(chunk, _float_plane) + of_model(chunk) + max(blocks, default=0)


def of_paper(chunk: EncodedChunk, *, tables: int = 0, threads: int = 2) -> int:
    """For `paper`: symbols of a part's both blocks, a plane in float32 three times over."""
    found = [of_block(one, _tables(chunk, tables), threads=threads) for one in chunk.blocks]
    pairs = (sum(found[first : first + 2]) for first in range(0, len(found), 2))

    def plane(one: PlaneShape, tokens: int) -> int:
        return 24 * one.width * tokens + 40 * one.width + 32 * tokens

    return _largest(chunk, plane) + of_model(chunk) + max(pairs, default=0) + 512 * tables


def of_adaptive(chunk: EncodedChunk, *, threads: int = 2) -> int:
    """For `adaptive`: as `plain`; all weights in bytes, and of a group its matrices and rows.

    Planes are views of groups' rows, and copies where they are put together of several.
    """
    if "group" not in chunk.arrays:
        return of_plain(chunk, threads=threads)
    group = max((int(one) for one in chunk.arrays["group"]), default=0)
    group = min(group, chunk.geometry.values_per_token)
    weights = chunk.blocks[-1:]
    whole = sum(3 * one.num_rows * len(one.active) for one in weights)
    widths = {shape.width for shape, _ in _planes(chunk)}
    apart = len(widths) == 1 and group % max(1, *widths) == 0

    def plane(one: PlaneShape, tokens: int) -> int:
        joined = 0 if apart else 4 * (one.width + group)
        in_group = (10 * group + joined) * chunk.num_tokens
        return in_group + _float_plane(one, tokens) - (6 * one.width * tokens if apart else 0)

    planes = _largest(chunk, plane) + 48 * group**2
    blocks = (of_block(one, _tables(chunk, 0), threads=threads) for one in chunk.blocks)
    return planes + whole + of_model(chunk) + max(blocks, default=0)


def of_model(chunk: EncodedChunk) -> int:
    """What a chunk's own tables and rotations take, and indices of all coefficients."""
    own = len(chunk.arrays.get("supports", ())) * _OF_OWN_TABLE
    own += len(chunk.arrays.get("rope_frequencies", ())) * _OF_FREQUENCY
    return own + _OF_ALL_COEFFICIENTS * chunk.geometry.values_per_token


def of_block(block: Block, tables: int, *, threads: int = 2) -> int:
    """What a block takes until all of it is put into planes, without these.

    Args:
        block: not yet decoded.
        tables: that its coefficients may name.
        threads: that decode it.
    """
    active = int(np.count_nonzero(block.active))
    used = min(tables, active) + 1
    made = used if used <= _SHARED_TABLES else threads * min(used, MAX_TABLES_PER_SUBSTREAM)
    # Coded, and of two of the parts that are put in order at once.
    symbols = active + block.lanes + 2 * -(-len(block.active) // PASSES)
    return (
        block.num_rows * (symbols + _OF_ROW)
        + _OF_BLOCK_COEFFICIENTS * len(block.active)
        + OF_ESCAPE * len(block.escapes)
        + _OF_SUBSTREAM * len(block.sizes)
        + _FREQUENCIES * used
        + _DECODE_TABLE * made
    )


def _float_plane(one: PlaneShape, tokens: int) -> int:
    """A plane's symbols, twice; float32 of it, twice, and of half of it; a rotation and another."""
    return 16 * one.width * tokens + 12 * one.dim * tokens + 8 * one.heads * tokens + 16 * tokens


def _own(chunk: EncodedChunk) -> Callable[[Block], int]:
    return lambda block: of_block(block, _tables(chunk, 0))


def _tables(chunk: EncodedChunk, of_profile: int) -> int:
    return max(len(chunk.arrays.get("supports", ())), of_profile)


def _planes(chunk: EncodedChunk) -> Iterable[tuple[PlaneShape, int]]:
    held = (tokens for tokens in chunk.tokens_held for _ in range(2))
    return zip(chunk.geometry.planes, held, strict=True)


def _largest(chunk: EncodedChunk, of_plane: Callable[[PlaneShape, int], int]) -> int:
    return max((of_plane(shape, tokens) for shape, tokens in set(_planes(chunk))), default=0)


_Key = TypeVar("_Key", bound=Hashable)
_Made = TypeVar("_Made")

# A profile has five levels, each with its integer basis of two bytes a number; a profile of the 256
# levels that the format allows would, all kept, take 256 times its own size.
MOST_KEPT = 8


def kept(made: dict[_Key, _Made], key: _Key, make: Callable[[], _Made]) -> _Made:
    """What was made for this key, or made now in place of the oldest.

    Threads may make it twice; none waits for another.
    """
    found = made.get(key)
    if found is None:
        found = make()
        for old in list(made)[: max(0, len(made) - MOST_KEPT + 1)]:
            made.pop(old, None)
        made[key] = found
    return found
