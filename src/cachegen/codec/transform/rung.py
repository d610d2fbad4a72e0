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
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cachegen.codec.blocks import (
    ESCAPE,
    DecodedBlock,
    check_escapes,
    decode_block,
    encode_block,
    sorted_by_table,
)
from cachegen.codec.encoded import Block, EncodedChunk
from cachegen.codec.matrix import sinks_among
from cachegen.codec.model import take
from cachegen.codec.rope import RopeMap
from cachegen.codec.symbols import CENTER, to_symbols
from cachegen.codec.transform.analysis import Analysed, analyse
from cachegen.codec.transform.basis import IntegerBasis, Transform, integer_basis
from cachegen.codec.transform.importance import LARGEST_MULTIPLIER
from cachegen.codec.transform.quantisation import QuantisedRows, Quantiser, RowClass, row_classes
from cachegen.codec.transform.synthesis import Coefficients, synthesise
from cachegen.errors import BitstreamError, TokensMismatch
from cachegen.kvcache import KVCache


@dataclass(frozen=True, eq=False)
class TransformLevel:
    """One rung of a transform profile's ladder, ready to code with.

    Attributes:
        transform: shared by all rungs.
        rope: rotations to take off keys.
        step: quantisation step, in the transform's units.
        num_active: per class of tokens and group, coefficients that are coded.
        bases: per group, the integers it is put together with.
        table_ids: per class and group int64 (active coefficients,), rows of `frequencies`.
        frequencies: uint16 (tables, 256).
    """

    transform: Transform
    rope: RopeMap
    step: float
    num_active: tuple[tuple[int, ...], ...]
    bases: tuple[IntegerBasis, ...]
    table_ids: tuple[tuple[np.ndarray, ...], ...]
    frequencies: np.ndarray

    @cached_property
    def by_table(self) -> tuple[tuple[np.ndarray, ...], ...]:
        """Per class and group, the coefficients in the order of their tables."""
        return tuple(tuple(map(sorted_by_table, ids)) for ids in self.table_ids)

    @cached_property
    def quantiser(self) -> Quantiser:
        """What only encoding needs."""
        return Quantiser.of(
            self.transform, step=self.step, num_active=self.num_active, bases=self.bases
        )


def transform_level(
    transform: Transform,
    rope: RopeMap,
    *,
    step: float,
    num_active: tuple[tuple[int, ...], ...],
    table_ids: np.ndarray,
    frequencies: np.ndarray,
) -> TransformLevel:
    """A rung; `table_ids` are those of all classes and groups, one after the other."""
    most = [max(counts) for counts in zip(*num_active, strict=True)]
    bases = tuple(
        integer_basis(group, step=step, num_active=count, grid=transform.grid)
        for group, count in zip(transform.groups, most, strict=True)
    )
    counts = [count for active in num_active for count in active]
    ids = iter(np.split(table_ids, np.cumsum(counts)[:-1]))
    by_class = tuple(tuple(next(ids) for _ in active) for active in num_active)
    return TransformLevel(transform, rope, step, num_active, bases, by_class, frequencies)


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

    return synthesise(
        coefficients(),
        tokens,
        chunk.arrays,
        transform,
        level.bases,
        level.rope,
        chunk.geometry,
        start=chunk.start,
        rows=_order(classes),
        threads=threads,
    )


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
    return synthesise(
        coefficients,
        tokens,
        analysed.sinks,
        level.transform,
        level.bases,
        level.rope,
        kv.geometry,
        start=kv.start,
        rows=_order(classes),
        threads=2,
    )


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
