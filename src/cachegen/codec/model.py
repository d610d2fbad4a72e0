"""What it takes to code quantised coefficients: means, steps, rotations, tables.

A profile holds one model for each of its levels; without a profile a chunk carries its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cachegen.codec.encoded import take
from cachegen.codec.rope import Rope, RopeMap, check_fits
from cachegen.codec.tables import PackedTables, narrow_ids, pack_tables, unpack_tables
from cachegen.errors import BitstreamError
from cachegen.kvcache import Geometry

# FORMAT.md, section 6: of all codecs but `paper`; frequencies in radians a token.
MOST_SHARED_TABLES = 256
_MOST_ROPES = 255
_FASTEST = 1e6


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
    arrays: dict[str, np.ndarray], geometry: Geometry, *, codec: str
) -> CodingModel:
    """The inverse of `model_to_arrays`.

    Raises:
        BitstreamError: arrays that are missing or do not fit the geometry or one another.
    """
    count = ids_per_level(geometry, codec)
    most = most_tables(geometry, codec)
    frequencies = escape_tables(arrays, most=most)
    return CodingModel(
        steps=steps_from_arrays(arrays, geometry),
        table_ids=take_ids(arrays, "table_ids", count=count, num_tables=len(frequencies)),
        frequencies=frequencies,
        means=means_from_arrays(arrays, geometry) if codec == "plain" else None,
        rope=rope_from_arrays(arrays, geometry) if codec == "plain" else _no_rope(geometry),
    )


def ids_per_level(geometry: Geometry, codec: str) -> int:
    """How many table ids a level has: one for each coefficient of each kind of block."""
    return geometry.values_per_token * (2 if codec == "paper" else 1)


def most_tables(geometry: Geometry, codec: str, *, levels: int = 1) -> int:
    """How many tables a chunk, or a profile of so many levels, may have (FORMAT.md, section 6)."""
    if codec != "paper":
        return MOST_SHARED_TABLES
    return max(ids_per_level(geometry, codec) * levels, MOST_SHARED_TABLES)


def take_tables(arrays: dict[str, np.ndarray], *, most: int = MOST_SHARED_TABLES) -> np.ndarray:
    """The tables of the arrays `supports` and `frequencies`, uint16 (tables, 256).

    Raises:
        BitstreamError: arrays that do not fit one another, invalid tables, or more than `most`.
    """
    return unpack_tables(_take_supports(arrays, most), take(arrays, "frequencies"))


def escape_tables(arrays: dict[str, np.ndarray], *, most: int) -> np.ndarray:
    """As `take_tables`, for blocks with escapes.

    Raises:
        BitstreamError: as `take_tables`; a table that cannot code the escape.
    """
    packed = escape_tables_packed(arrays, most=most)
    return packed.unpacked(np.arange(len(packed)))


def escape_tables_packed(arrays: dict[str, np.ndarray], *, most: int) -> PackedTables:
    """As `escape_tables`, not unpacked."""
    packed = PackedTables.read(_take_supports(arrays, most), take(arrays, "frequencies"))
    if not packed.code_escapes:
        raise BitstreamError("every table must be able to code the escape", field="frequencies")
    return packed


def _take_supports(arrays: dict[str, np.ndarray], most: int) -> np.ndarray:
    supports = take(arrays, "supports", ndim=2, width=2)
    if len(supports) > most:
        raise BitstreamError(
            f"expected at most {most} tables, got {len(supports)}", field="supports"
        )
    return supports


def take_ids(
    arrays: dict[str, np.ndarray], name: str, *, count: int, num_tables: int
) -> np.ndarray:
    """An array of table ids, int64 (count,).

    Raises:
        BitstreamError: the array is missing, has another length, or names tables there are not.
    """
    ids = take(arrays, name, count=count).astype(np.int64)
    if ids.max(initial=0) >= num_tables:
        raise BitstreamError(f"table {ids.max()} of {num_tables} does not exist", field=name)
    return ids


def steps_from_arrays(arrays: dict[str, np.ndarray], geometry: Geometry) -> np.ndarray:
    """The array `steps`, float32 (planes,).

    Raises:
        BitstreamError: other than a positive finite number for each plane.
    """
    steps = take(arrays, "steps", count=len(geometry.planes))
    if not (np.isfinite(steps) & (steps > 0)).all():
        raise BitstreamError("expected positive finite numbers", field="steps")
    return steps


def means_from_arrays(arrays: dict[str, np.ndarray], geometry: Geometry) -> np.ndarray:
    """The array `means`, float32 (coefficients,).

    Raises:
        BitstreamError: other than a finite number for each coefficient.
    """
    means = take(arrays, "means", count=geometry.values_per_token)
    if not np.isfinite(means).all():
        raise BitstreamError("expected finite numbers", field="means")
    return means


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
    if len(shapes) > _MOST_ROPES:
        raise BitstreamError(f"expected at most {_MOST_ROPES} rotations", field="rope_shapes")
    frequencies = take(arrays, "rope_frequencies", count=int(shapes[:, 0].sum()))
    of_plane = take(arrays, "rope_of_plane", count=len(geometry.planes)).astype(np.int64)
    if shapes[:, 1].max(initial=0) > 1 or of_plane.max(initial=0) > len(shapes):
        raise BitstreamError("unknown pairing, or a rotation that is missing", field="rope_shapes")
    if not (np.abs(frequencies) <= _FASTEST).all():
        raise BitstreamError("expected at most 1e6 radians a token", field="rope_frequencies")
    if set(of_plane.tolist()) - {0} != set(range(1, len(shapes) + 1)):
        raise BitstreamError("a rotation turns no plane", field="rope_of_plane")
    pieces = np.split(frequencies, np.cumsum(shapes[:, 0])[:-1]) if len(shapes) else []
    ropes = tuple(
        Rope(tuple(piece.tolist()), bool(interleaved))
        for piece, interleaved in zip(pieces, shapes[:, 1], strict=True)
    )
    found = RopeMap(ropes, tuple(int(i) - 1 if i else None for i in of_plane))
    try:
        check_fits(found, geometry)
    except ValueError as exc:
        raise BitstreamError(str(exc), field="rope_of_plane") from exc
    return found


def _no_rope(geometry: Geometry) -> RopeMap:
    return RopeMap.none(len(geometry.planes))
