"""A model's profile: statistics, levels and tables in one safetensors file.

The SHA-256 of what readers need of it names the profile; chunks coded with it carry that name.
"""

from __future__ import annotations

import hashlib
import json
import math
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

from cachegen.codec.levels import SELF_CONTAINED, TEXT, EncodingLevel, Quality, find_level
from cachegen.codec.memory import kept
from cachegen.codec.model import (
    CodingModel,
    escape_tables_packed,
    ids_per_level,
    means_from_arrays,
    most_tables,
    narrow_ids,
    rope_from_arrays,
    rope_to_arrays,
    steps_from_arrays,
    take,
    take_ids,
)
from cachegen.codec.rope import RopeMap
from cachegen.codec.tables import PackedTables, pack_tables, used_tables
from cachegen.codec.transform.basis import Transform
from cachegen.codec.transform.rung import TransformLevel, transform_level
from cachegen.codec.transform.stored_transform import (
    is_for_encoders,
    transform_from_arrays,
    transform_to_arrays,
)
from cachegen.errors import BitstreamError
from cachegen.kvcache import DTYPES, Geometry, PlaneShape

NO_PROFILE = bytes(32)
# Version 2 has a transform whose tokens weigh differently.
_FORMATS = ("cachegen-profile-1", "cachegen-profile-2")
# Codecs whose levels a profile may hold.
CODECS_WITH_PROFILE = ("transform", "plain", "paper")
_LEVEL_NAME = re.compile(r"[a-z0-9_-]{1,64}")
_RESERVED = {TEXT, *(level.name for level in SELF_CONTAINED)}
# FORMAT.md, sections 1 and 7.
_MOST_LAYERS, _MOST_VALUES = 4096, 2**24
# JSON takes up to 24 times its bytes as objects: 96 MiB.
_MOST_HEADER_BYTES = 4 << 20
_MOST_LEVELS = 256
# Unpacked at once: 2 MiB. Arbitrary: 256 to 65,536 do.
_FEW_TABLES = 4096
# Arbitrary: 10^3 to 10^9 do; at such a step every coefficient, in units of its spread, is zero.
_LARGEST_STEP = 1e6
_READ_ERRORS = (
    SafetensorError,
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
    RecursionError,
)
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}


@dataclass(frozen=True, slots=True)
class StepLimits:
    """The finest and the coarsest step that a level of a profile may have."""

    finest: float
    coarsest: float


@dataclass(frozen=True, eq=False)
class Profile:
    """Everything that coding the caches of one model needs, measured offline.

    Attributes:
        codec: `transform`, `plain` or `paper`.
        fingerprint: SHA-256 that identifies the model.
        geometry: planes and dtype of its caches.
        levels: the lossy ladder, smallest first.
        default_level: the smallest level whose measured KL is within the promise; where none of
            the ladder is, one that needs no profile.
        rope: rotations taken off before coding.
        frequencies: all tables, of all levels: uint16 (tables, 256), or packed where `paper` has
            many.
        table_ids: per level, the table of every coefficient of every block.
        scales: float32 (planes,): what a level's step is a multiple of; None in `transform`.
        means: float32 (coefficients,); None in `paper` and `transform`.
        transform: what preset `transform` has learned; None in the others.
        num_active: in `transform`, per level, class of tokens and group the coefficients that are
            coded.
        noise_floor: KL in nats per token by which the model differs from itself after changes
            below the rounding of its dtype; 0 where nobody measured.
        notes: what it was calibrated on, for people.
    """

    codec: str
    fingerprint: bytes
    geometry: Geometry
    levels: tuple[EncodingLevel, ...]
    default_level: str
    rope: RopeMap
    frequencies: np.ndarray | PackedTables
    table_ids: tuple[np.ndarray, ...]
    scales: np.ndarray | None = None
    means: np.ndarray | None = None
    transform: Transform | None = None
    num_active: tuple[tuple[tuple[int, ...], ...], ...] = ()
    noise_floor: float = 0.0
    notes: dict[str, str] = field(default_factory=dict)
    _rungs: dict[int, TransformLevel] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def file_bytes(self) -> bytes:
        """The profile as a file: equal profiles have equal bytes."""
        tensors = {name: np.ascontiguousarray(one) for name, one in self._tensors().items()}
        data: bytes = save(tensors, metadata={"profile": self._metadata()})
        return data

    @cached_property
    def reader_bytes(self) -> bytes:
        """The file without what only encoding needs: what is stored beside contexts.

        From version 2 on; of version 1 all of it.
        """
        if not self._is_weighted:
            return self.file_bytes
        tensors = load(self.file_bytes)
        needed = {name: one for name, one in tensors.items() if not is_for_encoders(name)}
        if len(needed) == len(tensors):
            return self.file_bytes
        data: bytes = save(needed, metadata=_raw_metadata(self.file_bytes))
        return data

    @cached_property
    def hash(self) -> bytes:
        """SHA-256 of what readers need."""
        return hashlib.sha256(self.reader_bytes).digest()

    def check_encodes(self) -> None:
        """Refuse to encode with the part that readers need.

        Raises:
            ValueError: it is no more than that.
        """
        if self.transform is not None and not self.transform.can_encode:
            raise ValueError(
                "this profile is only what readers need, as it is stored beside contexts: to "
                "encode, pass the file that `cachegen calibrate` wrote"
            )

    @property
    def _is_weighted(self) -> bool:
        return self.transform is not None and self.transform.importance is not None

    def level(self, name: str) -> EncodingLevel:
        """The level of this name.

        Raises:
            ValueError: there is none.
        """
        return find_level(self.levels, name)

    @property
    def needs_tokens(self) -> bool:
        """Whether coding takes the tokens of a chunk beside its cache."""
        return self.transform is not None

    def model(self, name: str) -> CodingModel:
        """The numbers that a level of `plain` or `paper` is coded with.

        Raises:
            ValueError: no such level.
        """
        level = self.level(name)
        assert self.scales is not None
        frequencies, ids = used_tables(self.frequencies, self.table_ids[self.levels.index(level)])
        return CodingModel(
            steps=self.scales * np.float32(level.step),
            table_ids=ids,
            frequencies=frequencies,
            means=self.means,
            rope=self.rope,
        )

    def rung(self, index: int) -> TransformLevel:
        """The numbers that a level of `transform` is coded with; the last few are kept.

        Args:
            index: of the level in `levels`.
        """
        return kept(self._rungs, index, lambda: self._make_rung(index))

    def _make_rung(self, index: int) -> TransformLevel:
        assert self.transform is not None and isinstance(self.frequencies, np.ndarray)
        return transform_level(
            self.transform,
            self.rope,
            step=self.levels[index].step,
            num_active=self.num_active[index],
            table_ids=self.table_ids[index],
            frequencies=self.frequencies,
        )

    def _tensors(self) -> dict[str, np.ndarray]:
        supports, frequencies = pack_tables(self.frequencies)
        tensors = {"supports": supports, "frequencies": frequencies} | rope_to_arrays(self.rope)
        if self.scales is not None:
            tensors["steps"] = self.scales
        if self.means is not None:
            tensors["means"] = self.means
        if self.transform is not None:
            tensors |= transform_to_arrays(self.transform)
        for level, active in zip(self.levels, self.num_active, strict=False):
            tensors[f"num_active.{level.name}"] = np.array(active, dtype=np.uint32).ravel()
        for level, ids in zip(self.levels, self.table_ids, strict=True):
            tensors[f"table_ids.{level.name}"] = narrow_ids(ids)
        return tensors

    def _metadata(self) -> str:
        described: dict[str, Any] = {
            "format": _FORMATS[self._is_weighted],
            "codec": self.codec,
            "fingerprint": self.fingerprint.hex(),
            "dtype": str(self.geometry.dtype).removeprefix("torch."),
            "planes": [[plane.heads, plane.dim] for plane in self.geometry.planes],
            "levels": [_described(level) for level in self.levels],
            "default_level": self.default_level,
            "notes": self.notes,
        }
        if self.noise_floor:
            described["noise_floor"] = self.noise_floor
        return json.dumps(described, sort_keys=True, separators=(",", ":"))


def _described(level: EncodingLevel) -> dict[str, Any]:
    """For the metadata; sizes that nobody measured are left out, as before there were any."""
    described = asdict(level)
    for quality in (described["quality"], *described["domains"].values()):
        for name in ("bits_per_value", "rel_ppl_error"):
            if quality is not None and quality[name] is None:
                del quality[name]
    return described


def step_limits(scales: np.ndarray | None) -> StepLimits:
    """Steps whose products with all scales are normal float32 numbers, as readers require.

    Args:
        scales: float32 (planes,), of which a step is a multiple; None in `transform`.
    """
    known = np.ones(1) if scales is None or not len(scales) else scales.astype(np.float64)
    tiny, huge = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
    coarsest = min(_LARGEST_STEP, 0.999 * huge / float(known.max()))
    return StepLimits(finest=1.001 * tiny / min(1.0, float(known.min())), coarsest=coarsest)


def read_profile(source: bytes | Path | str) -> Profile:
    """Read a profile from a file or from its bytes.

    Raises:
        BitstreamError: the bytes are no profile this version reads.
    """
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    try:
        _check_header(data)
        tensors = load(data)
        described = _strict_json(_raw_metadata(data)["profile"])
        profile = _from_parts(tensors, described)
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


def _check_header(data: bytes) -> None:
    """Refuse a description so long that reading it could take many times the file's memory."""
    size = int.from_bytes(data[:8], "little")
    if size > _MOST_HEADER_BYTES:
        raise BitstreamError(
            f"expected a header of at most {_MOST_HEADER_BYTES} bytes, got {size}", field="header"
        )


def _strict_json(text: str) -> Any:
    """The value of a document whose keys are single and whose numbers are finite.

    Raises:
        ValueError: says what is wrong.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError(f"expected single keys, got {[key for key, _ in pairs][:20]}")
        return found

    def finite(number: str) -> float:
        if not math.isfinite(value := float(number)):
            raise ValueError(f"expected finite numbers, got {number[:20]}")
        return value

    return json.loads(text, object_pairs_hook=unique, parse_float=finite, parse_constant=finite)


def _raw_metadata(data: bytes) -> dict[str, str]:
    size = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + size])["__metadata__"]
    if not isinstance(metadata, dict):
        raise TypeError("expected an object of metadata")
    return metadata


def _from_parts(tensors: dict[str, np.ndarray], described: dict[str, Any]) -> Profile:
    if described["format"] not in _FORMATS:
        raise BitstreamError(
            f"expected one of {_FORMATS}, got {described['format']!r}; calibrate again",
            field="format",
        )
    geometry = Geometry(_planes(described["planes"]), _dtype(described["dtype"]))
    codec = described["codec"]
    if codec not in CODECS_WITH_PROFILE:
        raise BitstreamError(f"expected one of {CODECS_WITH_PROFILE}, got {codec!r}", field="codec")
    levels = _levels(described["levels"], codec)
    most = ids_per_level(geometry, codec)
    frequencies = _tables(tensors, most_tables(geometry, codec, levels=len(levels)))
    transform: Transform | None = None
    num_active: tuple[tuple[tuple[int, ...], ...], ...] = ()
    if codec == "transform":
        transform = transform_from_arrays(tensors, geometry)
        num_active = tuple(_num_active(tensors, level, transform) for level in levels)
    counts = [sum(map(sum, active)) for active in num_active] or [most] * len(levels)
    profile = Profile(
        codec=codec,
        fingerprint=_digest(described["fingerprint"]),
        geometry=geometry,
        levels=levels,
        default_level=find_level(levels + SELF_CONTAINED, described["default_level"]).name,
        rope=rope_from_arrays(tensors, geometry),
        frequencies=frequencies,
        table_ids=tuple(
            take_ids(tensors, f"table_ids.{level.name}", count=count, num_tables=len(frequencies))
            for level, count in zip(levels, counts, strict=True)
        ),
        scales=None if transform else steps_from_arrays(tensors, geometry),
        means=means_from_arrays(tensors, geometry) if codec == "plain" else None,
        transform=transform,
        num_active=num_active,
        noise_floor=_noise_floor(described.get("noise_floor", 0.0)),
        notes={str(key): str(value) for key, value in dict(described["notes"]).items()},
    )
    _check_steps(profile)
    return profile


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


def _planes(pairs: list[Any]) -> tuple[PlaneShape, ...]:
    """Keys and values of each layer."""
    if len(pairs) % 2 or not 2 <= len(pairs) <= 2 * _MOST_LAYERS:
        raise BitstreamError(
            f"expected keys and values of 1 to {_MOST_LAYERS} layers, got {len(pairs)} planes",
            field="planes",
        )
    planes = tuple(_plane(*pair) for pair in pairs)
    values = sum(plane.width for plane in planes)
    if not 1 <= values <= _MOST_VALUES:
        raise BitstreamError(
            f"expected 1 to {_MOST_VALUES} values per token, got {values}", field="planes"
        )
    return planes


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


def _noise_floor(value: Any) -> float:
    if not 0 <= float(value) < math.inf:
        raise BitstreamError(f"expected a KL, got {value!r}", field="noise_floor")
    return float(value)


def _levels(entries: list[dict[str, Any]], codec: str) -> tuple[EncodingLevel, ...]:
    levels = tuple(_level(entry, codec) for entry in entries)
    if len(levels) > _MOST_LEVELS:
        raise BitstreamError(f"expected at most {_MOST_LEVELS}, got {len(levels)}", field="levels")
    names = [level.name for level in levels]
    fine = all(map(_LEVEL_NAME.fullmatch, names)) and len(set(names)) == len(names)
    if not fine or set(names) & _RESERVED:
        raise BitstreamError(f"expected distinct names of [a-z0-9_-], got {names}", field="levels")
    return levels


def _level(entry: dict[str, Any], codec: str) -> EncodingLevel:
    return EncodingLevel(
        name=str(entry["name"]),
        codec=codec,
        step=float(entry["step"]),
        bound=float(entry["bound"]),
        quality=_quality(entry["quality"]) if entry["quality"] else None,
        domains={str(name): _quality(one) for name, one in dict(entry["domains"]).items()},
    )


def _quality(entry: dict[str, Any]) -> Quality:
    def optional(name: str) -> float | None:
        return None if entry[name] is None else float(entry[name])

    return Quality(
        kl=float(entry["kl"]),
        rel_ppl=float(entry["rel_ppl"]),
        top1=float(entry["top1"]),
        num_tokens=int(entry["num_tokens"]),
        answer_kl=optional("answer_kl"),
        exact_match=optional("exact_match"),
        exact_match_uncompressed=optional("exact_match_uncompressed"),
        num_answers=int(entry["num_answers"]),
        bits_per_value=_bits_per_value(entry.get("bits_per_value")),
        rel_ppl_error=_error(entry.get("rel_ppl_error")),
    )


def _bits_per_value(value: Any) -> float | None:
    if value is None:
        return None
    if not 0 < float(value) < math.inf:
        raise BitstreamError(f"expected bits per value, got {value!r}", field="levels")
    return float(value)


def _error(value: Any) -> float | None:
    if value is None:
        return None
    if not 0 <= float(value) < math.inf:
        raise BitstreamError(f"expected a standard error, got {value!r}", field="levels")
    return float(value)


def _check_steps(profile: Profile) -> None:
    for level in profile.levels:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            steps = np.float32(level.step) * (
                np.ones(1) if profile.scales is None else profile.scales
            )
        fine = (np.isfinite(steps) & (steps > 0)).all() and level.step <= _LARGEST_STEP
        if not fine or not 0 <= level.bound < np.inf:
            raise BitstreamError(
                f"level {level.name}: {level.step} is no step, or {level.bound} no bound",
                field="levels",
            )
