"""The description of a profile: the JSON in the header of its file, written and read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from cachegen.codec.levels import (
    SELF_CONTAINED,
    TEXT,
    EncodingLevel,
    LongContexts,
    Quality,
    find_level,
)
from cachegen.errors import BitstreamError
from cachegen.kvcache import DTYPES, Geometry, PlaneShape

# Version 2 has a transform whose tokens weigh differently.
_FORMATS = ("cachegen-profile-1", "cachegen-profile-2")
# Codecs whose levels a profile may hold.
CODECS_WITH_PROFILE = ("transform", "plain", "paper")
_LEVEL_NAME = re.compile(r"[a-z0-9_-]{1,64}")
_RESERVED = {TEXT, *(level.name for level in SELF_CONTAINED)}
# FORMAT.md, sections 1 and 7.
_MOST_LAYERS, _MOST_VALUES = 4096, 2**24
# FORMAT.md, section 7. JSON takes up to 24 times its bytes as objects: 96 MiB.
_MOST_HEADER_BYTES = 4 << 20
# FORMAT.md, section 7: the number of a rung in a chunk is uint8.
_MOST_LEVELS = 256
# FORMAT.md, section 7: of a context is uint32.
_TOO_MANY_TOKENS = 2**32
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}


@dataclass(frozen=True, slots=True)
class Description:
    """What a profile says beside its arrays; as in `Profile`.

    Attributes:
        is_weighted: whether tokens weigh differently, which takes version 2 of the format.
    """

    codec: str
    fingerprint: bytes
    geometry: Geometry
    levels: tuple[EncodingLevel, ...]
    default_level: str
    notes: Mapping[str, str]
    noise_floor: float
    is_weighted: bool

    def to_json(self) -> str:
        """Equal descriptions have equal texts."""
        described: dict[str, Any] = {
            "format": _FORMATS[self.is_weighted],
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
    """For the metadata; what nobody measured is left out, as before there was any."""
    described = asdict(level)
    qualities = [described["quality"], *described["domains"].values()]
    if level.long is None:
        del described["long"]
    else:
        qualities += [described["long"]["quality"], *described["long"]["domains"].values()]
    for quality in qualities:
        for name in ("bits_per_value", "rel_ppl_error"):
            if quality is not None and quality[name] is None:
                del quality[name]
    return described


def read_description(data: bytes) -> Description:
    """Of a profile's file.

    Raises:
        BitstreamError: says which part is wrong.
        ValueError, LookupError, TypeError, ArithmeticError, RecursionError: it is no description.
    """
    described = _strict_json(raw_metadata(data)["profile"])
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
    return Description(
        codec=codec,
        fingerprint=_digest(described["fingerprint"]),
        geometry=geometry,
        levels=levels,
        default_level=find_level(levels + SELF_CONTAINED, described["default_level"]).name,
        notes={str(key): str(value) for key, value in dict(described["notes"]).items()},
        noise_floor=_noise_floor(described.get("noise_floor", 0.0)),
        is_weighted=described["format"] == _FORMATS[True],
    )


def check_header(data: bytes) -> None:
    """Refuse a description so long that reading it could take many times the file's memory.

    Raises:
        BitstreamError: it is longer than 4 MiB.
    """
    size = int.from_bytes(data[:8], "little")
    if size > _MOST_HEADER_BYTES:
        raise BitstreamError(
            f"expected a header of at most {_MOST_HEADER_BYTES} bytes, got {size}", field="header"
        )


def raw_metadata(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file as they are."""
    size = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + size])["__metadata__"]
    if not isinstance(metadata, dict):
        raise TypeError("expected an object of metadata")
    return metadata


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
        domains=_domains(entry["domains"]),
        long=_long(entry["long"]) if "long" in entry else None,
    )


def _domains(entries: Any) -> dict[str, Quality]:
    return {str(name): _quality(one) for name, one in dict(entries).items()}


def _long(entry: dict[str, Any]) -> LongContexts:
    num_tokens = int(entry["num_tokens"])
    if not 1 <= num_tokens < _TOO_MANY_TOKENS:
        raise BitstreamError(f"expected a number of tokens, got {num_tokens}", field="levels")
    return LongContexts(num_tokens, _quality(entry["quality"]), _domains(entry["domains"]))


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
