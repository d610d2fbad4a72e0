"""What it takes to code quantised coefficients: means, steps, rotations, tables.

A profile holds one model for each of its levels; without a profile a chunk carries its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cachegen.codec.rope import Rope, RopeMap
from cachegen.codec.tables import pack_tables, unpack_tables
from cachegen.errors import BitstreamError
from cachegen.kvcache import Geometry


@dataclass(frozen=True, slots=True, eq=False)
class CodingModel:
    """The numbers one lossy level is coded with.

    Attributes:
        steps: float32 (planes,): quantisation step of every plane; the bin in preset `paper`.
        table_ids: (coefficients of all blocks,): rows of `frequencies`.
        frequencies: uint16 (tables, 256).
        means: float32 (coefficients,), subtracted before quantisation; None in preset `paper`.
        rope: rotations to take off before coding.
    """

    steps: np.ndarray
    table_ids: np.ndarray
    frequencies: np.ndarray
    means: np.ndarray | None
    rope: RopeMap


def model_to_arrays(model: CodingModel) -> dict[str, np.ndarray]:
    """The arrays of FORMAT.md by which a chunk carries its own model."""
    supports, frequencies = pack_tables(model.frequencies)
    arrays = {
        "supports": supports,
        "frequencies": frequencies,
        "table_ids": narrow_ids(model.table_ids),
        "steps": model.steps,
    }
    if model.means is not None:
        arrays |= {"means": model.means, **rope_to_arrays(model.rope)}
    return arrays


def model_from_arrays(
    arrays: dict[str, np.ndarray], geometry: Geometry, *, blocks_each: int
) -> CodingModel:
    """The inverse of `model_to_arrays`; `blocks_each` blocks of every coefficient have tables.

    Raises:
        BitstreamError: arrays that are missing or do not fit the geometry or one another.
    """
    frequencies = unpack_tables(
        take(arrays, "supports", ndim=2, width=2), take(arrays, "frequencies")
    )
    count = blocks_each * geometry.values_per_token
    table_ids = take(arrays, "table_ids", count=count).astype(np.int64)
    if len(table_ids) and table_ids.max() >= len(frequencies):
        raise BitstreamError(
            f"table {table_ids.max()} of {len(frequencies)} does not exist", field="table_ids"
        )
    num_planes = len(geometry.planes)
    steps = take(arrays, "steps", count=num_planes)
    if not (np.isfinite(steps) & (steps > 0)).all():
        raise BitstreamError("expected positive finite numbers", field="steps")
    if "means" not in arrays:
        return CodingModel(steps, table_ids, frequencies, None, RopeMap.none(num_planes))
    means = take(arrays, "means", count=geometry.values_per_token)
    return CodingModel(steps, table_ids, frequencies, means, rope_from_arrays(arrays, geometry))


def take(
    arrays: dict[str, np.ndarray],
    name: str,
    *,
    count: int | None = None,
    ndim: int = 1,
    width: int | None = None,
) -> np.ndarray:
    """An array of a chunk, its shape checked.

    Raises:
        BitstreamError: the array is missing or has another shape.
    """
    if name not in arrays:
        raise BitstreamError("the array is missing", field=name)
    array = arrays[name]
    right = array.ndim == ndim and (width is None or array.shape[-1] == width)
    if not right or (count is not None and len(array) != count):
        wanted = f"{ndim} dimensions, {'any' if count is None else count} entries"
        raise BitstreamError(f"expected {wanted}, got shape {array.shape}", field=name)
    return array


def narrow_ids(ids: np.ndarray) -> np.ndarray:
    """Table ids in the narrowest of uint8, uint16 and uint32."""
    largest = int(ids.max()) if len(ids) else 0
    for dtype in (np.uint8, np.uint16):
        if largest <= np.iinfo(dtype).max:
            return ids.astype(dtype)
    return ids.astype(np.uint32)


def rope_to_arrays(rope: RopeMap) -> dict[str, np.ndarray]:
    """The three arrays that describe rotations."""
    frequencies = [f for one in rope.ropes for f in one.inverse_frequencies]
    shapes = [(len(one.inverse_frequencies), int(one.interleaved)) for one in rope.ropes]
    return {
        "rope_frequencies": np.array(frequencies, dtype=np.float32),
        "rope_shapes": np.array(shapes, dtype=np.uint32).reshape(-1, 2),
        "rope_of_plane": np.array(
            [0 if index is None else index + 1 for index in rope.of_plane], dtype=np.uint8
        ),
    }


def rope_from_arrays(arrays: dict[str, np.ndarray], geometry: Geometry) -> RopeMap:
    """The inverse of `rope_to_arrays`.

    Raises:
        BitstreamError: rotations that do not fit the planes.
    """
    shapes = take(arrays, "rope_shapes", ndim=2, width=2).astype(np.int64)
    frequencies = take(arrays, "rope_frequencies", count=int(shapes[:, 0].sum()))
    of_plane = take(arrays, "rope_of_plane", count=len(geometry.planes)).astype(np.int64)
    if shapes[:, 1].max(initial=0) > 1 or of_plane.max(initial=0) > len(shapes):
        raise BitstreamError("unknown pairing, or a rotation that is missing", field="rope_shapes")
    if not np.isfinite(frequencies).all():
        raise BitstreamError("expected finite numbers", field="rope_frequencies")
    pieces = np.split(frequencies, np.cumsum(shapes[:, 0])[:-1]) if len(shapes) else []
    ropes = tuple(
        Rope(tuple(piece.tolist()), bool(interleaved))
        for piece, interleaved in zip(pieces, shapes[:, 1], strict=True)
    )
    for plane, index in zip(geometry.planes, of_plane, strict=True):
        if index and ropes[index - 1].rotated_dims > plane.dim:
            raise BitstreamError("more dimensions turn than a head has", field="rope_of_plane")
    return RopeMap(ropes, tuple(int(i) - 1 if i else None for i in of_plane))
