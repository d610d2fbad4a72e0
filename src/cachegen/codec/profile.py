"""A model's profile: statistics, levels and tables in one safetensors file.

The file's SHA-256 names the profile; chunks coded with it carry that name.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save

from cachegen.codec.levels import FIXED_LEVELS, TEXT, EncodingLevel, Quality, find_level
from cachegen.codec.model import (
    MOST_SHARED_TABLES,
    CodingModel,
    escape_tables,
    ids_per_level,
    means_from_arrays,
    narrow_ids,
    rope_from_arrays,
    rope_to_arrays,
    steps_from_arrays,
    take_ids,
)
from cachegen.codec.rope import RopeMap
from cachegen.codec.tables import pack_tables
from cachegen.errors import BitstreamError
from cachegen.kvcache import DTYPES, Geometry, PlaneShape

NO_PROFILE = bytes(32)
_FORMAT = "cachegen-profile-0"
_LEVEL_NAME = re.compile(r"[a-z0-9_-]{1,64}")
_RESERVED = {TEXT, *(level.name for level in FIXED_LEVELS)}
_MOST_VALUES = 2**24
_READ_ERRORS = (
    SafetensorError,
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
    RecursionError,
)
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}


@dataclass(frozen=True, eq=False)
class Profile:
    """Everything that coding the caches of one model needs, measured offline.

    Attributes:
        codec: `plain` or `paper`.
        fingerprint: SHA-256 that identifies the model.
        geometry: planes and dtype of its caches.
        levels: the lossy ladder, smallest first.
        default_level: the smallest level whose measured KL is within the promise.
        rope: rotations taken off before coding.
        scales: float32 (planes,): what a level's step is a multiple of.
        means: float32 (coefficients,), or None in preset `paper`.
        frequencies: uint16 (tables, 256): all tables, of all levels.
        table_ids: per level, the table of every coefficient of every block.
        notes: what it was calibrated on, for people.
    """

    codec: str
    fingerprint: bytes
    geometry: Geometry
    levels: tuple[EncodingLevel, ...]
    default_level: str
    rope: RopeMap
    scales: np.ndarray
    means: np.ndarray | None
    frequencies: np.ndarray
    table_ids: tuple[np.ndarray, ...]
    notes: dict[str, str] = field(default_factory=dict)

    @cached_property
    def file_bytes(self) -> bytes:
        """The profile as a file: equal profiles have equal bytes."""
        data: bytes = save(self._tensors(), metadata={"profile": self._metadata()})
        return data

    @cached_property
    def hash(self) -> bytes:
        """SHA-256 of the file."""
        return hashlib.sha256(self.file_bytes).digest()

    def level(self, name: str) -> EncodingLevel:
        """The level of this name.

        Raises:
            ValueError: there is none.
        """
        return find_level(self.levels, name)

    def model(self, name: str) -> CodingModel:
        """The numbers that a level is coded with.

        Raises:
            ValueError: no such level.
        """
        level = self.level(name)
        return CodingModel(
            steps=self.scales * np.float32(level.step),
            table_ids=self.table_ids[self.levels.index(level)],
            frequencies=self.frequencies,
            means=self.means,
            rope=self.rope,
        )

    def _tensors(self) -> dict[str, np.ndarray]:
        supports, frequencies = pack_tables(self.frequencies)
        tensors = {"supports": supports, "frequencies": frequencies, "steps": self.scales}
        tensors |= rope_to_arrays(self.rope)
        if self.means is not None:
            tensors["means"] = self.means
        for level, ids in zip(self.levels, self.table_ids, strict=True):
            tensors[f"table_ids.{level.name}"] = narrow_ids(ids)
        return tensors

    def _metadata(self) -> str:
        described = {
            "format": _FORMAT,
            "codec": self.codec,
            "fingerprint": self.fingerprint.hex(),
            "dtype": str(self.geometry.dtype).removeprefix("torch."),
            "planes": [[plane.heads, plane.dim] for plane in self.geometry.planes],
            "levels": [asdict(level) for level in self.levels],
            "default_level": self.default_level,
            "notes": self.notes,
        }
        return json.dumps(described, sort_keys=True, separators=(",", ":"))


def read_profile(source: bytes | Path | str) -> Profile:
    """Read a profile from a file or from its bytes.

    Raises:
        BitstreamError: the bytes are no profile this version reads.
    """
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    try:
        tensors = load(data)
        described = json.loads(_raw_metadata(data)["profile"])
        profile = _from_parts(tensors, described)
    except BitstreamError:
        raise
    except _READ_ERRORS as exc:
        raise BitstreamError(f"not a profile: {exc!r}", field="profile") from exc
    profile.__dict__["file_bytes"] = data
    return profile


@cache
def shipped_profile(fingerprint: bytes) -> Profile | None:
    """The `plain` profile that comes with the package for this model, if there is one."""
    folder = resources.files("cachegen") / "refmodel" / "profiles"
    for file in folder.iterdir():
        if file.name.startswith("plain") and file.name.endswith(".safetensors"):
            profile = read_profile(file.read_bytes())
            if profile.fingerprint == fingerprint:
                return profile
    return None


def _raw_metadata(data: bytes) -> dict[str, str]:
    size = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + size])["__metadata__"]
    if not isinstance(metadata, dict):
        raise TypeError("expected an object of metadata")
    return metadata


def _from_parts(tensors: dict[str, np.ndarray], described: dict[str, Any]) -> Profile:
    if described["format"] != _FORMAT:
        raise BitstreamError(f"expected {_FORMAT!r}, got {described['format']!r}", field="format")
    geometry = Geometry(
        tuple(_plane(*pair) for pair in described["planes"]), _dtype(described["dtype"])
    )
    codec = described["codec"]
    if codec not in ("plain", "paper"):
        raise BitstreamError(f"expected plain or paper, got {codec!r}", field="codec")
    levels = _levels(described["levels"], codec)
    count = ids_per_level(geometry, codec)
    frequencies = escape_tables(tensors, most=max(count * len(levels), MOST_SHARED_TABLES))
    profile = Profile(
        codec=codec,
        fingerprint=_digest(described["fingerprint"]),
        geometry=geometry,
        levels=levels,
        default_level=find_level(levels, described["default_level"]).name,
        rope=rope_from_arrays(tensors, geometry),
        scales=steps_from_arrays(tensors, geometry),
        means=means_from_arrays(tensors, geometry) if codec == "plain" else None,
        frequencies=frequencies,
        table_ids=tuple(
            take_ids(tensors, f"table_ids.{level.name}", count=count, num_tables=len(frequencies))
            for level in levels
        ),
        notes={str(key): str(value) for key, value in dict(described["notes"]).items()},
    )
    _check_steps(profile)
    return profile


def _plane(heads: int, dim: int) -> PlaneShape:
    if not 0 <= int(heads) <= _MOST_VALUES or not 0 <= int(dim) <= _MOST_VALUES:
        raise BitstreamError(f"expected sizes, got {heads} heads of {dim}", field="planes")
    return PlaneShape(int(heads), int(dim))


def _dtype(name: str) -> torch.dtype:
    if name not in _DTYPES:
        raise BitstreamError(f"expected one of {sorted(_DTYPES)}, got {name!r}", field="dtype")
    return _DTYPES[name]


def _digest(text: str) -> bytes:
    digest = bytes.fromhex(text)
    if len(digest) != 32:
        raise BitstreamError(f"expected 32 bytes, got {len(digest)}", field="fingerprint")
    return digest


def _levels(entries: list[dict[str, Any]], codec: str) -> tuple[EncodingLevel, ...]:
    levels = tuple(_level(entry, codec) for entry in entries)
    names = [level.name for level in levels]
    fine = all(map(_LEVEL_NAME.fullmatch, names)) and len(set(names)) == len(names)
    if not fine or set(names) & _RESERVED:
        raise BitstreamError(f"expected distinct names of [a-z0-9_-], got {names}", field="levels")
    return levels


def _level(entry: dict[str, Any], codec: str) -> EncodingLevel:
    quality = _quality(entry["quality"]) if entry["quality"] else None
    return EncodingLevel(str(entry["name"]), codec, float(entry["step"]), quality)


def _quality(entry: dict[str, Any]) -> Quality:
    return Quality(
        kl=float(entry["kl"]),
        rel_ppl=float(entry["rel_ppl"]),
        top1=float(entry["top1"]),
        num_tokens=int(entry["num_tokens"]),
    )


def _check_steps(profile: Profile) -> None:
    for level in profile.levels:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            steps = profile.model(level.name).steps
        if not (np.isfinite(steps) & (steps > 0)).all():
            raise BitstreamError(f"level {level.name}: {level.step} is no step", field="levels")
