"""Preset `transform`: learned transforms of keys and values together, predicted from the text.

    planes -> un-rotate -> subtract means and prediction -> transform -> divide by the step -> round
           -> symbols -> block (one for each layer group)

What a chunk loses is measured while it is coded; where that is more than its level allows it is
coded at a finer one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence

import numpy as np

from cachegen.codec.blocks import (
    ESCAPE,
    DecodedBlock,
    check_escapes,
    decode_block,
    encode_block,
)
from cachegen.codec.encoded import Block, EncodedChunk, take
from cachegen.codec.matrix import sinks_among
from cachegen.codec.symbols import CENTER, to_symbols
from cachegen.codec.transform.analysis import Analysed, analyse
from cachegen.codec.transform.basis import Transform
from cachegen.codec.transform.importance import LARGEST_MULTIPLIER
from cachegen.codec.transform.level import TransformLevel
from cachegen.codec.transform.quantisation import QuantisedRows, RowClass, row_classes
from cachegen.codec.transform.synthesis import ChunkRows, Coefficients, synthesise
from cachegen.errors import BitstreamError, TokensMismatch
from cachegen.kvcache import KVCache


def encode_blocks(
    quantised: QuantisedRows, level: TransformLevel, *, threads: int
) -> tuple[Block, ...]:
    """One block for each layer group of each class that has tokens."""
    blocks = []
    for one, integers in zip(quantised.classes, quantised.integers, strict=True):
        for own, ids in zip(integers, level.table_ids[one.index], strict=True):
            symbols, escapes = to_symbols(own, ids, level.frequencies)
            blocks.append(encode_block(symbols, escapes, ids, level.frequencies, threads=threads))
    return tuple(blocks)


def decode(
    chunk: EncodedChunk, tokens: Sequence[int] | np.ndarray, level: TransformLevel, *, threads: int
) -> KVCache:
    """The cache of a chunk.

    Raises:
        BitstreamError: blocks that do not fit the profile or do not decode.
        TokensMismatch: the chunk was coded for other tokens.
    """
    check_tokens(chunk, tokens)
    if set(chunk.tokens_held) != {chunk.num_tokens}:
        raise BitstreamError(
            f"expected all {chunk.num_tokens} tokens in every layer", field="tokens_held"
        )
    transform = level.transform
    skipped = sinks_among(chunk.start, chunk.num_tokens, most=transform.num_sinks)
    classes = _stored_classes(chunk, transform, num_rows=chunk.num_tokens - skipped)
    expected = len(classes) * len(transform.groups)
    if len(chunk.blocks) != expected:
        raise BitstreamError(f"expected {expected} blocks, got {len(chunk.blocks)}", field="blocks")

    deepest = max((max(level.num_active[one.index]) for one in classes), default=0)
    room = np.empty((chunk.num_tokens - skipped) * deepest, dtype=np.int16)

    def coefficients() -> Iterator[Coefficients]:
        for group in range(len(transform.groups)):
            blocks = chunk.blocks[group :: len(transform.groups)]
            counts = [level.num_active[one.index][group] for one in classes]
            found = unfilled(classes, counts, room)
            parts = _parts(found.steps, classes, counts)
            for one, block, out in zip(classes, blocks, parts, strict=True):
                _decode_into(out, one, block, level, group, threads=threads)
            yield found

    known = ChunkRows(tokens, chunk.arrays, chunk.geometry, chunk.start, _order(classes))
    return synthesise(coefficients(), known, level, threads=threads)


def roundtrip(
    kv: KVCache,
    tokens: Sequence[int] | np.ndarray,
    level: TransformLevel,
    *,
    analysed: Analysed | None = None,
) -> KVCache:
    """What `decode` would make of a coded chunk, without coding anything.

    Args:
        kv: the cache of the chunk.
        tokens: the chunk's own.
        level: to code at.
        analysed: the cache's coefficients, where they are known.
    """
    analysed = analysed or analyse(kv, tokens, level.transform, level.rope)
    quantised = level.quantiser.quantise(analysed)
    classes = quantised.classes
    coefficients = []
    for group in range(len(level.transform.groups)):
        counts = [level.num_active[one.index][group] for one in classes]
        found = unfilled(classes, counts)
        parts = _parts(found.steps, classes, counts)
        for integers, out in zip(quantised.integers, parts, strict=True):
            out[:] = integers[group]
        coefficients.append(found)
    known = ChunkRows(tokens, analysed.sinks, kv.geometry, kv.start, _order(classes))
    return synthesise(coefficients, known, level, threads=2)


def unfilled(
    classes: Sequence[RowClass], counts: Sequence[int], room: np.ndarray | None = None
) -> Coefficients:
    """The coefficients of a group, class after class, still to be written.

    Args:
        classes: of the tokens.
        counts: coefficients per class.
        room: int16, flat and large enough, to be overwritten.
    """
    sizes = [len(one.rows) for one in classes]
    none = [np.zeros(0, dtype=np.int64)]
    shape = sum(sizes), max(counts, default=0)
    room = np.empty(math.prod(shape), dtype=np.int16) if room is None else room
    return Coefficients(
        steps=room[: math.prod(shape)].reshape(shape),
        depths=np.repeat(np.array(counts, dtype=np.int64), sizes),
        multipliers=np.concatenate([one.multipliers for one in classes] or none),
    )


def _parts(
    steps: np.ndarray, classes: Sequence[RowClass], counts: Sequence[int]
) -> Iterator[np.ndarray]:
    """Those of each class: views (its rows, its active coefficients)."""
    first = 0
    for one, count in zip(classes, counts, strict=True):
        stop = first + len(one.rows)
        yield steps[first:stop, :count]
        first = stop


def _order(classes: Sequence[RowClass]) -> np.ndarray:
    """Int64 (rows,): the rows of the chunk, class after class."""
    return np.concatenate([one.rows for one in classes] or [np.zeros(0, dtype=np.int64)])


def _stored_classes(chunk: EncodedChunk, transform: Transform, *, num_rows: int) -> list[RowClass]:
    """Raises BitstreamError: multipliers that are missing, too few, or none of the format."""
    if transform.importance is None:
        return row_classes(None, num_rows, fraction=transform.grid.fraction)
    stored = take(chunk.arrays, "multipliers", count=num_rows)
    if num_rows and not 1 <= int(stored.min()) <= int(stored.max()) <= LARGEST_MULTIPLIER:
        raise BitstreamError(
            f"expected 1 to {LARGEST_MULTIPLIER}, got {stored.min()} to {stored.max()}",
            field="multipliers",
        )
    return row_classes(stored, num_rows, fraction=transform.grid.fraction)


def _decode_into(
    out: np.ndarray, one: RowClass, block: Block, level: TransformLevel, group: int, *, threads: int
) -> None:
    """Write the integers of a block, int16 (its rows, active coefficients).

    Raises:
        BitstreamError: words that do not decode; escapes that are too many, too few or too large.
    """
    ids, by_table = level.table_ids[one.index][group], level.by_table[one.index][group]
    block.expect(len(one.rows), len(ids))
    decoded = decode_block(block, ids, level.frequencies, threads=threads, by_table=by_table)
    fill_steps(out, decoded, block.escapes, level.transform.grid.most // one.multipliers)


def tokens_digest(tokens: Sequence[int] | np.ndarray) -> np.ndarray:
    """SHA-256 of token ids as little-endian u32: uint8 (32,)."""
    digest = hashlib.sha256(np.asarray(tokens, dtype="<u4").tobytes()).digest()
    return np.frombuffer(digest, dtype=np.uint8)


def check_tokens(chunk: EncodedChunk, tokens: Sequence[int] | np.ndarray) -> None:
    """Refuse to decode with other tokens than those the chunk was coded for.

    Raises:
        BitstreamError: the chunk does not tell.
        TokensMismatch: other tokens.
    """
    stored = take(chunk.arrays, "tokens_digest", count=32)
    if len(tokens) != chunk.num_tokens or not np.array_equal(stored, tokens_digest(tokens)):
        raise TokensMismatch(
            f"the chunk was coded for other tokens than the {len(tokens)} given; pass exactly the "
            f"{chunk.num_tokens} token ids it covers"
        )


def fill_steps(
    out: np.ndarray, decoded: DecodedBlock, escapes: np.ndarray, largest: np.ndarray
) -> None:
    """Write the integers behind symbols and the escapes among them, row-major.

    Args:
        out: int16 (rows, coefficients).
        decoded: symbols (rows, coefficients).
        escapes: integers.
        largest: int64 (rows,), what magnitudes may be.

    Raises:
        BitstreamError: escapes that are too many, too few or too large.
    """
    counts = check_escapes(decoded, escapes)
    symbols = decoded.columns(0, len(decoded.places))
    out[:] = symbols
    out -= CENTER
    if not len(escapes):
        return
    allowed = np.repeat(largest, counts)
    if (np.abs(escapes.astype(np.int64)) > allowed).any():
        raise BitstreamError(f"expected at most {int(allowed.min())} steps", field="escapes")
    out[symbols == ESCAPE] = escapes
