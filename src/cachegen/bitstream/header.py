"""The header of a chunk (FORMAT.md, section 1)."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

import torch
import xxhash

from cachegen.bitstream.arrays import ALIGNMENT, ArrayEntry, ByteReader, entry_to_bytes, read_table
from cachegen.codec import codecs
from cachegen.codec.encoded import EncodedChunk
from cachegen.kvcache import Geometry, PlaneShape

# FORMAT.md, section 1.
RUN_SIZE = 24
MAX_LAYERS = 4096
MAX_VALUES_PER_TOKEN = 2**24

_RUN = struct.Struct("<IIIIHH4x")


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one layer holds.

    Attributes:
        key: shape of its keys.
        value: shape of its values.
        tokens_held: how many of the last tokens it holds.
    """

    key: PlaneShape
    value: PlaneShape
    tokens_held: int

    @property
    def values_per_token(self) -> int:
        """Values of one token in keys and values together."""
        return self.key.width + self.value.width


def layers_of(chunk: EncodedChunk) -> tuple[LayerShape, ...]:
    """The layers of a chunk, in order."""
    planes = chunk.geometry.planes
    return tuple(
        LayerShape(key, value, held)
        for key, value, held in zip(planes[::2], planes[1::2], chunk.tokens_held, strict=True)
    )


def geometry_of(layers: Iterable[LayerShape], dtype: torch.dtype) -> Geometry:
    """The inverse of `layers_of`, without the tokens held."""
    planes = tuple(plane for layer in layers for plane in (layer.key, layer.value))
    return Geometry(planes, dtype)


def runs_to_bytes(layers: tuple[LayerShape, ...]) -> bytes:
    """The geometry table of these layers."""
    return b"".join(_run_to_bytes(shape, len(list(run))) for shape, run in groupby(layers))


def read_runs(reader: ByteReader, num_runs: int, *, num_tokens: int) -> tuple[LayerShape, ...]:
    """The layers that a geometry table describes.

    Raises:
        BitstreamError: too many layers, an empty layer, or runs that should be one.
    """
    layers: list[LayerShape] = []
    total = 0
    for index in range(num_runs):
        field = f"geometry[{index}]"
        count, shape = _read_run(reader, field, num_tokens=num_tokens)
        if layers and layers[-1] == shape:
            reader.fail("equal to the run before it; they must be one", field)
        if len(layers) + count > MAX_LAYERS:
            reader.fail(f"more than {MAX_LAYERS} layers", field)
        total += count * shape.values_per_token
        if not 0 < shape.values_per_token <= total <= MAX_VALUES_PER_TOKEN:
            reader.fail(
                f"expected 1 to {MAX_VALUES_PER_TOKEN} values per token in all layers, got "
                f"{total}, {shape.values_per_token} of them in each layer of this run",
                field,
            )
        layers += [shape] * count
    return tuple(layers)


def _run_to_bytes(shape: LayerShape, count: int) -> bytes:
    key, value = shape.key, shape.value
    return _RUN.pack(count, key.dim, value.dim, shape.tokens_held, key.heads, value.heads)


def _read_run(reader: ByteReader, field: str, *, num_tokens: int) -> tuple[int, LayerShape]:
    count = reader.unsigned(4, f"{field}.layers", low=1, high=MAX_LAYERS)
    key_dim = reader.unsigned(4, f"{field}.key_dim")
    value_dim = reader.unsigned(4, f"{field}.value_dim")
    held = reader.unsigned(4, f"{field}.tokens_held", high=num_tokens)
    key_heads = reader.unsigned(2, f"{field}.key_heads")
    value_heads = reader.unsigned(2, f"{field}.value_heads")
    reader.zeros(4, f"{field}.padding")
    key, value = PlaneShape(key_heads, key_dim), PlaneShape(value_heads, value_dim)
    return count, LayerShape(key, value, held)


MAGIC = b"CGKV"
# FORMAT.md, section 1, fixes the numbers of this module.
VERSION = 1
SOME_LAYERS_VERSION = 2
MAX_TOKENS = 2**24
LEVEL_NAME = re.compile(r"[a-z0-9_-]{1,64}")

_DTYPES = (
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
)
_FIXED = struct.Struct("<4sHBBIIQQQIHH32s32s32s")
GEOMETRY_OFFSET = _FIXED.size
_MAX_SIZE = 2**20
_MAX_ARRAYS = 4096
_MAX_POSITION = 2**48
_CHECKSUM_OFFSET = 24
_DIGEST_SIZE = 32


@dataclass(frozen=True, slots=True)
class Header:
    """The fields of a chunk's header.

    Attributes:
        codec: the codec that made it.
        level: the level that was asked for.
        dtype: element type of the planes.
        start: absolute position of the first token.
        num_tokens: tokens covered.
        layers: shape of every layer.
        profile_hash: profile needed to decode; zeros when there is none.
        fingerprint: the model; zeros when unknown.
        chunk_id: identity of the tokens; zeros when unknown.
        arrays: the array table.
    """

    codec: str
    level: str
    dtype: torch.dtype
    start: int
    num_tokens: int
    layers: tuple[LayerShape, ...]
    profile_hash: bytes
    fingerprint: bytes
    chunk_id: bytes
    arrays: tuple[ArrayEntry, ...]

    @property
    def values_per_token(self) -> int:
        """Values of one token over all layers."""
        return sum(layer.values_per_token for layer in self.layers)

    @property
    def planes_bytes(self) -> int:
        """What the planes take; a layer that holds no token counts as if it held one."""
        values = sum(layer.values_per_token * max(layer.tokens_held, 1) for layer in self.layers)
        return values * self.dtype.itemsize


def header_to_bytes(header: Header) -> bytes:
    """The header as it is stored.

    Raises:
        ValueError, struct.error: something its field cannot hold.
    """
    for digest in (header.profile_hash, header.fingerprint, header.chunk_id):
        if len(digest) != _DIGEST_SIZE:
            raise ValueError(f"expected digests of {_DIGEST_SIZE} bytes, got {len(digest)}")
    table = b"".join(entry_to_bytes(entry) for entry in header.arrays)
    level, runs = header.level.encode(), runs_to_bytes(header.layers)
    tail = runs + level + table
    tail += bytes(-len(tail) % ALIGNMENT)
    size = _FIXED.size + len(tail)
    fixed = _FIXED.pack(
        MAGIC,
        _version_of(header.arrays),
        _index(header.codec, codecs.names()),
        _index(header.dtype, _DTYPES),
        size,
        len(header.arrays),
        size + sum(entry.padded_bytes for entry in header.arrays),
        0,
        header.start,
        header.num_tokens,
        len(runs) // RUN_SIZE,
        len(level),
        header.profile_hash,
        header.fingerprint,
        header.chunk_id,
    )
    unsealed = fixed + tail
    checksum = _checksum(memoryview(unsealed)).to_bytes(8, "little")
    return unsealed[:_CHECKSUM_OFFSET] + checksum + unsealed[_CHECKSUM_OFFSET + 8 :]


def read_header(data: memoryview) -> tuple[Header, int]:
    """The header of a whole chunk, and its size in bytes.

    Raises:
        BitstreamError: bytes that are no chunk of this version, or are damaged.
    """
    reader = ByteReader(data)
    version, codec, dtype, size, num_arrays = _read_envelope(reader, data)
    reader = ByteReader(bytes(data[:size]), reader.offset)
    start = reader.unsigned(8, "start", high=_MAX_POSITION)
    num_tokens = reader.unsigned(4, "num_tokens", high=MAX_TOKENS)
    num_runs = reader.unsigned(2, "num_runs", low=1)
    level_size = reader.unsigned(2, "level_size", low=1, high=64)
    profile_hash = reader.take(_DIGEST_SIZE, "profile_hash")
    fingerprint = reader.take(_DIGEST_SIZE, "fingerprint")
    chunk_id = reader.take(_DIGEST_SIZE, "chunk_id")
    layers = read_runs(reader, num_runs, num_tokens=num_tokens)
    level = _read_level(reader, level_size)
    arrays = read_table(reader, num_arrays)
    if version != _version_of(arrays):
        reader.fail(f"expected `layers` exactly in version {SOME_LAYERS_VERSION}", "version")
    padding = size - reader.offset
    if padding >= ALIGNMENT:
        reader.fail(f"expected a header of less than {ALIGNMENT} bytes more", "header_size")
    reader.zeros(padding, "padding")
    header = Header(
        codec=codec,
        level=level,
        dtype=dtype,
        start=start,
        num_tokens=num_tokens,
        layers=layers,
        profile_hash=profile_hash,
        fingerprint=fingerprint,
        chunk_id=chunk_id,
        arrays=arrays,
    )
    return header, size


def wrong_version(version: int) -> str:
    """What to do about bytes of a version that is not read."""
    if version < VERSION:
        advice = "a draft's bytes are not read any more, save the context again"
    else:
        advice = "it was written by a newer cachegen, install that"
    return f"expected version {VERSION} or {SOME_LAYERS_VERSION}, got {version}: {advice}"


def _version_of(arrays: tuple[ArrayEntry, ...]) -> int:
    """Chunks that name their layers have the second version, all others the first."""
    named = any(entry.name == "layers" for entry in arrays)
    return SOME_LAYERS_VERSION if named else VERSION


def _index(choice: str | torch.dtype, choices: tuple[str | torch.dtype, ...]) -> int:
    if choice not in choices:
        raise ValueError(f"expected one of {choices}, got {choice!r}")
    return choices.index(choice)


def _read_envelope(reader: ByteReader, data: memoryview) -> tuple[int, str, torch.dtype, int, int]:
    """Version, codec, dtype, header size and number of arrays; the header's checksum holds."""
    if reader.take(4, "magic") != MAGIC:
        reader.fail(f"expected {MAGIC!r}: this is no chunk", "magic")
    version = _read_version(reader)
    codec = reader.choice("codec", codecs.names())
    dtype = reader.choice("dtype", _DTYPES)
    size = reader.unsigned(4, "header_size", low=_FIXED.size, high=min(_MAX_SIZE, len(data)))
    if size % ALIGNMENT:
        reader.fail(f"expected a multiple of {ALIGNMENT}, got {size}", "header_size")
    num_arrays = reader.unsigned(4, "num_arrays", high=_MAX_ARRAYS)
    reader.unsigned(8, "chunk_size", low=len(data), high=len(data))
    if reader.unsigned(8, "header_xxh3") != _checksum(data[:size]):
        reader.fail("the checksum differs: the header is damaged", "header_xxh3")
    return version, codec, dtype, size, num_arrays


def _read_version(reader: ByteReader) -> int:
    version = reader.unsigned(2, "version")
    if version not in (VERSION, SOME_LAYERS_VERSION):
        reader.fail(wrong_version(version), "version")
    return version


def _read_level(reader: ByteReader, size: int) -> str:
    name = reader.take(size, "level")
    level = name.decode("ascii", errors="replace")
    if not LEVEL_NAME.fullmatch(level):
        reader.fail(f"expected a name of [a-z0-9_-], got {level!r}", "level")
    return level


def _checksum(header: memoryview) -> int:
    xxh3 = xxhash.xxh3_64(header[:_CHECKSUM_OFFSET])
    xxh3.update(bytes(8))
    xxh3.update(header[_CHECKSUM_OFFSET + 8 :])
    return xxh3.intdigest()
