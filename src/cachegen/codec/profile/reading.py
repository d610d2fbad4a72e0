"""Profiles from files, whose bytes are not trusted."""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from cachegen.codec.encoded import take
from cachegen.codec.levels import EncodingLevel
from cachegen.codec.model import (
    escape_tables_packed,
    ids_per_level,
    means_from_arrays,
    most_tables,
    rope_from_arrays,
    steps_from_arrays,
    take_ids,
)
from cachegen.codec.profile.description import Description, check_header, read_description
from cachegen.codec.profile.profile import Profile
from cachegen.codec.profile.steps import check_steps
from cachegen.codec.tables import PackedTables
from cachegen.codec.transform.basis import Transform
from cachegen.codec.transform.stored_transform import transform_from_arrays
from cachegen.errors import BitstreamError

# Unpacked at once: 2 MiB. Arbitrary: 256 to 65,536 do.
_FEW_TABLES = 4096
_READ_ERRORS = (
    SafetensorError,
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
    RecursionError,
)


def read_profile(source: bytes | Path | str) -> Profile:
    """Read a profile from a file or from its bytes.

    Raises:
        BitstreamError: the bytes are no profile this version reads.
    """
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    try:
        check_header(data)
        profile = _from_parts(load(data), read_description(data))
    except BitstreamError:
        raise
    except _READ_ERRORS as exc:
        raise BitstreamError(f"not a profile: {exc!r}", field="profile") from exc
    profile.__dict__["file_bytes"] = data
    return profile


@cache
def shipped_profile(fingerprint: bytes) -> Profile | None:
    """The profile that comes with the package for this model, if there is one."""
    folder = resources.files("cachegen") / "refmodel" / "profiles"
    for file in folder.iterdir():
        if file.name == "transform.safetensors":
            profile = read_profile(file.read_bytes())
            if profile.fingerprint == fingerprint:
                return profile
    return None


def _from_parts(tensors: dict[str, np.ndarray], described: Description) -> Profile:
    geometry, codec, levels = described.geometry, described.codec, described.levels
    most = ids_per_level(geometry, codec)
    frequencies = _tables(tensors, most_tables(geometry, codec, levels=len(levels)))
    transform: Transform | None = None
    num_active: tuple[tuple[tuple[int, ...], ...], ...] = ()
    if codec == "transform":
        transform = transform_from_arrays(tensors, geometry)
        num_active = tuple(_num_active(tensors, level, transform) for level in levels)
    counts = [sum(map(sum, active)) for active in num_active] or [most] * len(levels)
    scales = None if transform else steps_from_arrays(tensors, geometry)
    check_steps(levels, scales)
    return Profile(
        codec=codec,
        fingerprint=described.fingerprint,
        geometry=geometry,
        levels=levels,
        default_level=described.default_level,
        rope=rope_from_arrays(tensors, geometry),
        frequencies=frequencies,
        table_ids=tuple(
            take_ids(tensors, f"table_ids.{level.name}", count=count, num_tables=len(frequencies))
            for level, count in zip(levels, counts, strict=True)
        ),
        scales=scales,
        means=means_from_arrays(tensors, geometry) if codec == "plain" else None,
        transform=transform,
        num_active=num_active,
        noise_floor=described.noise_floor,
        notes=dict(described.notes),
    )


def _tables(tensors: dict[str, np.ndarray], most: int) -> np.ndarray | PackedTables:
    """All tables; not unpacked where they are more than a few."""
    packed = escape_tables_packed(tensors, most=most)
    few = len(packed) <= _FEW_TABLES
    return packed.unpacked(np.arange(len(packed))) if few else packed


def _num_active(
    tensors: dict[str, np.ndarray], level: EncodingLevel, transform: Transform
) -> tuple[tuple[int, ...], ...]:
    """Per class and group."""
    name, groups = f"num_active.{level.name}", transform.groups
    stored = take(tensors, name, count=transform.num_classes * len(groups))
    counts = stored.reshape(transform.num_classes, len(groups)).tolist()
    for own in counts:
        for count, group in zip(own, groups, strict=True):
            if count > len(group.synthesis):
                raise BitstreamError(f"{count} of {len(group.synthesis)} coefficients", field=name)
    return tuple(map(tuple, counts))
