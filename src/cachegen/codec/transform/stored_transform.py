"""A learned transform as the arrays of a profile, and back."""

from __future__ import annotations

import numpy as np

from cachegen.codec import matrix
from cachegen.codec.encoded import take
from cachegen.codec.transform.basis import PRECISE, LayerGroup, Transform
from cachegen.codec.transform.importance import NUM_POSITION_TERMS, Importance
from cachegen.codec.transform.stored_rows import pack, unpack
from cachegen.errors import BitstreamError
from cachegen.kvcache import Geometry

# FORMAT.md, section 7.
MOST_SINKS = 64
_MOST_LAGS = 64
_MOST_FEATURES = 4096
_RANGE = (1e-30, 1e30)


def is_for_encoders(name: str) -> bool:
    """Whether an array is one that only encoding needs."""
    return name.partition(".")[0] in ("analysis", "analysis_bytes", "analysis_exponents")


def transform_to_arrays(transform: Transform) -> dict[str, np.ndarray]:
    """The arrays of FORMAT.md that hold a transform."""
    arrays: dict[str, np.ndarray] = {
        "num_sinks": np.array([transform.num_sinks], dtype=np.uint32),
        "unit": np.array([transform.unit], dtype=np.float64),
        "strangeness": np.array([transform.ood_score], dtype=np.float64),
    }
    for lag, table in enumerate(transform.features):
        arrays[f"features.{lag}"] = table
    for index, group in enumerate(transform.groups):
        arrays |= {
            f"planes.{index}": np.array(group.planes, dtype=np.uint32),
            f"group_means.{index}": group.means,
            f"prediction.{index}": group.prediction,
            f"variances.{index}": group.variances,
            **_matrices_to_arrays(group, index, in_bytes=transform.importance is not None),
        }
    if transform.importance is not None:
        arrays["importance.position"] = transform.importance.position
        for index, weights in enumerate(transform.importance.groups):
            arrays[f"importance.{index}"] = weights
    return arrays


def _matrices_to_arrays(group: LayerGroup, index: int, *, in_bytes: bool) -> dict[str, np.ndarray]:
    """Synthesis, and analysis where there is any; behind the precise ones in bytes if they fit."""
    synthesis, analysis, known = group.synthesis, group.analysis, len(group.variances)
    arrays: dict[str, np.ndarray] = {}
    if in_bytes and (packed := pack(synthesis[PRECISE:])) and packed[0].size:
        synthesis = synthesis[:PRECISE]
        arrays[f"synthesis_bytes.{index}"], arrays[f"synthesis_exponents.{index}"] = packed
    if in_bytes and (packed := pack(analysis[:, PRECISE:known].T)) and packed[0].size:
        analysis = np.concatenate([analysis[:, :PRECISE], analysis[:, known:]], axis=1)
        arrays[f"analysis_bytes.{index}"], arrays[f"analysis_exponents.{index}"] = packed
    arrays[f"synthesis.{index}"] = synthesis
    if analysis.size:
        arrays[f"analysis.{index}"] = analysis
    return arrays


def transform_from_arrays(arrays: dict[str, np.ndarray], geometry: Geometry) -> Transform:
    """The inverse of `transform_to_arrays`; of weighted transforms `analysis` may be missing.

    Raises:
        BitstreamError: arrays that are missing or do not fit the geometry or one another.
    """
    num_sinks = int(take(arrays, "num_sinks", count=1)[0])
    unit = float(take(arrays, "unit", count=1)[0])
    ood_score = float(take(arrays, "strangeness", count=1)[0])
    plausible = all(_RANGE[0] <= number <= _RANGE[1] for number in (unit, ood_score))
    if num_sinks > MOST_SINKS or not plausible:
        field = "num_sinks" if num_sinks > MOST_SINKS else "unit and strangeness"
        raise BitstreamError(
            f"expected at most {MOST_SINKS} sinks, and 1e-30 to 1e30; got {num_sinks} sinks, "
            f"unit {unit}, strangeness {ood_score}",
            field=field,
        )
    features = _features(arrays)
    num_features = sum(table.shape[1] for table in features)
    groups: list[LayerGroup] = []
    offsets, first = matrix.plane_offsets(geometry), 0
    while first < len(geometry.planes):
        groups.append(_group(arrays, len(groups), num_features, offsets, first))
        first += len(groups[-1].planes)
    importance = _importance(arrays, groups) if "importance.position" in arrays else None
    return Transform(tuple(groups), features, num_sinks, unit, ood_score, importance)


def _importance(arrays: dict[str, np.ndarray], groups: list[LayerGroup]) -> Importance:
    found = Importance(
        take(arrays, "importance.position", count=NUM_POSITION_TERMS),
        tuple(take(arrays, f"importance.{index}") for index in range(len(groups))),
    )
    for index, (weights, group) in enumerate(zip(found.groups, groups, strict=True)):
        if not 1 <= len(weights) <= len(group.variances) + 1:
            raise BitstreamError(
                f"expected 1 to {len(group.variances) + 1} numbers, got {len(weights)}",
                field=f"importance.{index}",
            )
    if not all(np.isfinite(one).all() for one in (found.position, *found.groups)):
        raise BitstreamError("expected finite numbers", field="importance")
    return found


def _features(arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """The tables of all lags, of one vocabulary."""
    names = [name for name in arrays if name.partition(".")[0] == "features"]
    if len(names) > _MOST_LAGS:
        raise BitstreamError(
            f"expected at most {_MOST_LAGS} lags, got {len(names)}", field="features"
        )
    tables = tuple(take(arrays, f"features.{lag}", ndim=2) for lag in range(len(names)))
    if sum(table.shape[1] for table in tables) > _MOST_FEATURES:
        raise BitstreamError(f"expected at most {_MOST_FEATURES} features", field="features")
    if len({len(table) for table in tables}) > 1 or any(not len(table) for table in tables):
        raise BitstreamError("expected one vocabulary, not empty, for all", field="features")
    return tables


def _group(
    arrays: dict[str, np.ndarray],
    index: int,
    num_features: int,
    offsets: np.ndarray,
    first: int,
) -> LayerGroup:
    stored, num_planes = take(arrays, f"planes.{index}"), len(offsets) - 1
    planes = tuple(range(first, first + len(stored)))
    if not planes or not np.array_equal(stored, planes):
        raise BitstreamError(f"expected the planes from {first} on", field=f"planes.{index}")
    if planes[-1] >= num_planes:
        raise BitstreamError(f"there is no plane {planes[-1]}", field=f"planes.{index}")
    width = int(offsets[planes[-1] + 1] - offsets[first])
    synthesis = take(arrays, f"synthesis.{index}", ndim=2, width=width)
    if f"synthesis_bytes.{index}" in arrays:
        synthesis = np.concatenate([synthesis, _bytes_of(arrays, "synthesis", index, width)])
    analysis = np.zeros((width, 0), dtype=np.float16)
    if f"analysis.{index}" in arrays or "importance.position" not in arrays:
        analysis = take(arrays, f"analysis.{index}", ndim=2, count=width)
        if f"analysis_bytes.{index}" in arrays:
            more = _bytes_of(arrays, "analysis", index, width).T
            if more.shape[1] != len(synthesis) - PRECISE:
                raise BitstreamError("other coefficients than synthesis", field="analysis_bytes")
            ends = analysis[:, :PRECISE], more, analysis[:, PRECISE:]
            analysis = np.concatenate(ends, axis=1)
        if len(synthesis) > analysis.shape[1]:
            raise BitstreamError("fewer columns than coefficients", field=f"analysis.{index}")
    if len(synthesis) > width:
        raise BitstreamError("more coefficients than columns", field=f"synthesis.{index}")
    group = LayerGroup(
        planes=planes,
        means=take(arrays, f"group_means.{index}", count=width),
        prediction=take(arrays, f"prediction.{index}", ndim=2, count=num_features, width=width),
        synthesis=synthesis,
        analysis=analysis,
        variances=take(arrays, f"variances.{index}", count=len(synthesis)),
    )
    for name in ("means", "prediction", "synthesis", "analysis", "variances"):
        if not np.isfinite(getattr(group, name)).all():
            raise BitstreamError("expected finite numbers", field=f"{name}.{index}")
    return group


def _bytes_of(arrays: dict[str, np.ndarray], name: str, index: int, width: int) -> np.ndarray:
    """The rows of a matrix that are stored in bytes: float16 (rows, columns)."""
    codes = take(arrays, f"{name}_bytes.{index}", ndim=2, width=width)
    return unpack(codes, take(arrays, f"{name}_exponents.{index}", count=width))
