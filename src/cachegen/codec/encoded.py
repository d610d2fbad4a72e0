"""One coded chunk as arrays: what the codecs make and the bitstream packs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from cachegen.codec import matrix
from cachegen.codec.levels import EncodingLevel
from cachegen.errors import BitstreamError
from cachegen.kvcache import Geometry, KVCache

Layers = tuple[int, ...]
# FORMAT.md, sections 2, 6 and 7: of the arrays of chunks and profiles.
_TYPES = {
    "rows": ("uint8",),
    "scales": ("uint16",),
    "codes": ("int8",),
    "low_bytes": ("uint8",),
    "supports": ("uint8",),
    "frequencies": ("uint16",),
    "table_ids": ("uint8", "uint16", "uint32"),
    "means": ("float32",),
    "steps": ("float32",),
    "rope_frequencies": ("float32",),
    "rope_shapes": ("uint32",),
    "rope_of_plane": ("uint8",),
    "tokens_digest": ("uint8",),
    "rung": ("uint8",),
    "distortion": ("float32",),
    "features": ("int8",),
    "num_sinks": ("uint32",),
    "unit": ("float64",),
    "strangeness": ("float64",),
    "variances": ("float32",),
    "num_active": ("uint32",),
    "planes": ("uint32",),
    "group_means": ("float32",),
    "prediction": ("float16",),
    "synthesis": ("float16",),
    "synthesis_bytes": ("int8",),
    "synthesis_exponents": ("int8",),
    "analysis": ("float16",),
    "analysis_bytes": ("int8",),
    "analysis_exponents": ("int8",),
    "importance": ("float32",),
    "multipliers": ("uint8",),
    "fineness": ("uint8",),
    "group": ("uint32",),
    "weight_step": ("float32",),
    "spreads": ("uint8",),
}


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A coded matrix of small integers, (rows, coefficients).

    A coefficient whose symbol never changes is inactive: its constant is kept and nothing is
    coded. Escapes are the values of all escape symbols, in row-major order of the matrix.

    Attributes:
        num_rows: rows of the matrix.
        active: bool (coefficients,): which of them are coded.
        constants: uint8 (inactive coefficients,): their symbols.
        escapes: int8, int16 or int32 (escapes,).
        lanes: columns of a group, 8, 16 or 32.
        rows_per_substream: height of the substreams' rectangles.
        groups_per_substream: their width, in groups.
        sizes: uint32 (substreams,): words of each.
        words: uint16 (words + 32,): the substreams in order, then 32 zero words of padding.
    """

    num_rows: int
    active: np.ndarray
    constants: np.ndarray
    escapes: np.ndarray
    lanes: int
    rows_per_substream: int
    groups_per_substream: int
    sizes: np.ndarray
    words: np.ndarray

    def expect(self, num_rows: int, num_coefficients: int) -> None:
        """Check the shape of the matrix.

        Raises:
            BitstreamError: the block holds a matrix of another shape.
        """
        if (self.num_rows, len(self.active)) != (num_rows, num_coefficients):
            raise BitstreamError(
                f"expected {num_rows} x {num_coefficients}, "
                f"got {self.num_rows} x {len(self.active)}",
                field="shape",
            )


@dataclass(frozen=True, slots=True, eq=False)
class EncodedChunk:
    """A coded token range: who it belongs to, how it was coded, and the arrays that came out.

    Attributes:
        level: name of the level that was asked for.
        codec: the codec that made the bytes; `lossless` where the level could not represent
            the input (NaN or Inf).
        geometry: planes and dtype of the cache.
        start: absolute position of the first token.
        num_tokens: tokens covered.
        tokens_held: per layer, how many of the last tokens it holds; all of them but for
            finished sliding-window caches.
        profile_hash: SHA-256 of the profile needed to decode; 32 zero bytes when there is none.
        fingerprint: SHA-256 that identifies the model; 32 zero bytes when unknown.
        chunk_id: identity of the tokens up to the chunk's end; 32 zero bytes when unknown.
        blocks: entropy-coded matrices, in the order the codec defines.
        arrays: everything else the codec needs, by name.
    """

    level: str
    codec: str
    geometry: Geometry
    start: int
    num_tokens: int
    tokens_held: tuple[int, ...]
    profile_hash: bytes = bytes(32)
    fingerprint: bytes = bytes(32)
    chunk_id: bytes = bytes(32)
    blocks: tuple[Block, ...] = ()
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


def blank_chunk(kv: KVCache, level: EncodingLevel) -> EncodedChunk:
    """The chunk of a cache at a level, without what its codec makes."""
    return EncodedChunk(
        level=level.name,
        codec=level.codec,
        geometry=kv.geometry,
        start=kv.start,
        num_tokens=kv.num_tokens,
        tokens_held=matrix.tokens_held(kv),
    )


def named_layers(chunk: EncodedChunk) -> Layers | None:
    """The layers that a chunk says it holds; None where it holds all of them."""
    named = chunk.arrays.get("layers")
    return None if named is None else tuple(int(layer) for layer in named)


def geometry_of_layers(geometry: Geometry, layers: Layers | None) -> Geometry:
    """Of some layers, of all where that is None.

    Raises:
        BitstreamError: there is no such layer.
    """
    if layers is None:
        return geometry
    if layers[-1] >= geometry.num_layers:
        raise BitstreamError(
            f"there are {geometry.num_layers} layers, got layer {layers[-1]}", field="layers"
        )
    return geometry.of_layers(layers)


def take(
    arrays: dict[str, np.ndarray],
    name: str,
    *,
    count: int | None = None,
    ndim: int = 1,
    width: int | None = None,
) -> np.ndarray:
    """An array of a chunk or profile, its type and shape checked.

    Raises:
        BitstreamError: the array is missing or has another type or shape.
    """
    if name not in arrays:
        raise BitstreamError("the array is missing", field=name)
    array = arrays[name]
    types = _TYPES[name.partition(".")[0]]
    if array.dtype.name not in types:
        raise BitstreamError(f"expected {' or '.join(types)}, got {array.dtype}", field=name)
    right = array.ndim == ndim and (width is None or array.shape[-1] == width)
    if not right or (count is not None and len(array) != count):
        wanted = f"{ndim} dimensions, {'any' if count is None else count} entries"
        raise BitstreamError(f"expected {wanted}, got shape {array.shape}", field=name)
    return array
