"""Preset `transform`: learned transforms of keys and values together, predicted from the text.

    planes -> un-rotate -> subtract means and prediction -> transform -> divide by the step -> round
           -> symbols -> block (one for each layer group)

What a chunk loses is measured while it is coded; where that is more than its level allows it is
coded at a finer one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from cachegen.codec.analysis import (
    Analysed,
    Quantised,
    analyse,
    quantise_coefficients,
)
from cachegen.codec.basis import (
    FRACTION,
    LARGEST_COEFFICIENT,
    IntegerBasis,
    Transform,
    integer_basis,
)
from cachegen.codec.blocks import Columns, coded_columns, decode_columns, encode_block
from cachegen.codec.encoded import Block, EncodedChunk
from cachegen.codec.model import take
from cachegen.codec.rope import RopeMap
from cachegen.codec.rows import sinks_among
from cachegen.codec.symbols import CENTER, ESCAPE, to_symbols
from cachegen.codec.synthesis import Coefficients, synthesise
from cachegen.errors import BitstreamError, TokensMismatch
from cachegen.kvcache import KVCache


@dataclass(frozen=True, slots=True, eq=False)
class TransformLevel:
    """One rung of a transform profile's ladder, ready to code with.

    Attributes:
        transform: shared by all rungs.
        rope: rotations to take off keys.
        step: quantisation step, in the transform's units.
        num_active: coefficients of each group that are coded.
        bases: the integers each group is put together with.
        table_ids: per group int64 (active coefficients,), rows of `frequencies`.
        frequencies: uint16 (tables, 256).
    """

    transform: Transform
    rope: RopeMap
    step: float
    num_active: tuple[int, ...]
    bases: tuple[IntegerBasis, ...]
    table_ids: tuple[np.ndarray, ...]
    frequencies: np.ndarray
    _columns: dict[tuple[int, int], tuple[Columns, np.ndarray]] = field(
        default_factory=dict, init=False, repr=False
    )

    def columns(self, group: int, block: Block) -> tuple[Columns, np.ndarray]:
        """What the columns of a group's block are, and the rows of the basis in their order.

        Nearly all blocks have all coefficients active; what those share is made once.
        """
        if not block.active.all():
            return self._make_columns(group, block)
        key = group, block.lanes
        if key not in self._columns:
            self._columns[key] = self._make_columns(group, block)
        return self._columns[key]

    def _make_columns(self, group: int, block: Block) -> tuple[Columns, np.ndarray]:
        ids = self.table_ids[group]
        columns = coded_columns(block.active, ids, self.frequencies, lanes=block.lanes)
        return columns, self.bases[group].rows[columns.order]

    def quantise(self, analysed: Analysed) -> Quantised:
        """See `quantise_coefficients`."""
        return quantise_coefficients(
            analysed, self.transform, step=self.step, num_active=self.num_active
        )


def transform_level(
    transform: Transform,
    rope: RopeMap,
    *,
    step: float,
    num_active: tuple[int, ...],
    table_ids: np.ndarray,
    frequencies: np.ndarray,
) -> TransformLevel:
    """A rung; `table_ids` are those of all groups, one after the other."""
    bases = tuple(
        integer_basis(group, step=step, num_active=count)
        for group, count in zip(transform.groups, num_active, strict=True)
    )
    ids = tuple(np.split(table_ids, np.cumsum(num_active)[:-1]))
    return TransformLevel(transform, rope, step, num_active, bases, ids, frequencies)


def encode_blocks(
    quantised: Quantised, level: TransformLevel, *, threads: int
) -> tuple[Block, ...]:
    """One block for each layer group."""
    blocks = []
    for integers, ids in zip(quantised.integers, level.table_ids, strict=True):
        symbols, escapes = to_symbols(integers, ids, level.frequencies)
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
    if len(chunk.blocks) != len(transform.groups):
        raise BitstreamError(
            f"expected {len(transform.groups)} blocks, got {len(chunk.blocks)}", field="blocks"
        )
    skipped = sinks_among(chunk.start, chunk.num_tokens, most=transform.num_sinks)
    num_rows = chunk.num_tokens - skipped

    def coefficients() -> Iterator[Coefficients]:
        for group, block in enumerate(chunk.blocks):
            block.expect(num_rows, level.num_active[group])
            columns, basis = level.columns(group, block)
            yield Coefficients(decode_steps(block, columns, threads=threads), basis)

    return synthesise(
        coefficients(),
        tokens,
        chunk.arrays,
        transform,
        level.bases,
        level.rope,
        chunk.geometry,
        start=chunk.start,
        num_rows=num_rows,
        threads=threads,
    )


def roundtrip(kv: KVCache, tokens: Sequence[int] | np.ndarray, level: TransformLevel) -> KVCache:
    """What `decode` would make of a coded chunk, without coding anything."""
    analysed = analyse(kv, tokens, level.transform, level.rope)
    return synthesise(
        [
            Coefficients((FRACTION * whole).astype(np.int16), basis.rows[: whole.shape[1]])
            for whole, basis in zip(level.quantise(analysed).integers, level.bases, strict=True)
        ],
        tokens,
        analysed.sinks,
        level.transform,
        level.bases,
        level.rope,
        kv.geometry,
        start=kv.start,
        num_rows=len(analysed.features),
        threads=2,
    )


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


def decode_steps(block: Block, columns: Columns, *, threads: int) -> np.ndarray:
    """Coefficients in 1/32 steps, int16 (rows, coefficients), in the columns' order.

    Raises:
        BitstreamError: words that do not decode; escapes that are too many, too few or too large.
    """
    steps = decode_columns(block, columns, threads=threads).astype(np.int16)
    escaped = steps == ESCAPE
    count = int(np.count_nonzero(escaped))
    if count != len(block.escapes):
        raise BitstreamError(f"expected {count} escapes, got {len(block.escapes)}", field="escapes")
    if (np.abs(block.escapes.astype(np.int64)) > LARGEST_COEFFICIENT).any():
        raise BitstreamError(f"expected at most {LARGEST_COEFFICIENT} steps", field="escapes")
    steps -= CENTER
    if count:
        at_row, at_column = np.nonzero(escaped)
        as_stored = np.lexsort((columns.order[at_column], at_row))
        steps[at_row[as_stored], at_column[as_stored]] = block.escapes
    steps *= FRACTION
    return steps
