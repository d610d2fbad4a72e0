"""What processes take while they decode hostile chunks: `python -m tests.codec.peaks` prints it.

Every case runs in a process of its own, forked from one that has imported everything. Its peak is
what the system counted (VmHWM), less what it had before.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save

from cachegen.bitstream.format import pack, unpack
from cachegen.bitstream.manifest import read_manifest
from cachegen.codec.codec import decode_chunk
from cachegen.codec.codecs import DecodeRequest, codec_of
from cachegen.codec.encoded import Block, EncodedChunk
from cachegen.codec.memory import planes_bytes
from cachegen.codec.profile import Profile, read_profile
from cachegen.codec.transform.importance import NUM_POSITION_TERMS
from cachegen.codec.transform.rung import tokens_digest
from cachegen.errors import CacheGenError
from cachegen.kvcache import Geometry, PlaneShape

GOLDEN = Path(__file__).parents[1] / "golden"
MIB = 1 << 20


@dataclass(frozen=True)
class Case:
    """A chunk that nobody but an attacker would write.

    Attributes:
        chunk: as it was unpacked.
        profile: that it names.
        tokens: of `transform`.
        fails: whether decoding ends with an error.
    """

    chunk: EncodedChunk
    profile: Profile | None = None
    tokens: np.ndarray | None = None
    fails: bool = False


@dataclass(frozen=True)
class Peak:
    """What a case took in bytes, what its codec says that it takes at most, and how it ended."""

    name: str
    chunk_bytes: int
    planes: int
    working: int
    taken: int
    error: str = ""


def constant(rows: int, coefficients: int, symbol: int = 128, escapes: int = 0) -> Block:
    """A block of one symbol: a byte for each coefficient, however many rows."""
    return Block(
        num_rows=rows,
        active=np.zeros(coefficients, dtype=np.bool_),
        constants=np.full(coefficients, symbol, dtype=np.uint8),
        escapes=np.ones(escapes, dtype=np.int8),
        lanes=8,
        rows_per_substream=max(rows, 1),
        groups_per_substream=1,
        sizes=np.zeros(0, dtype=np.uint32),
        words=np.zeros(32, dtype=np.uint16),
    )


def flat_geometry(
    layers: int, heads: int, dim: int, dtype: torch.dtype = torch.bfloat16, *, values: int = 0
) -> Geometry:
    """Layers of keys and, where there are any, values."""
    return Geometry(
        (PlaneShape(heads, dim), PlaneShape(heads if values else 0, values)) * layers, dtype
    )


def chunk_of(
    codec: str, geometry: Geometry, tokens: int, *, start: int = 64, held: int | None = None
) -> EncodedChunk:
    """A chunk without blocks or arrays."""
    return EncodedChunk(
        level="high",
        codec=codec,
        geometry=geometry,
        start=start,
        num_tokens=tokens,
        tokens_held=(tokens if held is None else held,) * geometry.num_layers,
    )


def own_model(geometry: Geometry, *, ropes: bool = False, tables: int = 1) -> dict[str, np.ndarray]:
    """The arrays by which a chunk carries its own statistics."""
    planes, count = len(geometry.planes), geometry.values_per_token
    pairs = [plane.dim // 2 for plane in geometry.planes[::2]] if ropes else []
    return {
        "supports": np.full((tables, 2), (128, 129), dtype=np.uint8),
        "frequencies": np.tile(np.array([1, 4094, 1], dtype=np.uint16), tables),
        "table_ids": np.zeros(count, dtype=np.uint8),
        "means": np.zeros(count, dtype=np.float32),
        "steps": np.ones(planes, dtype=np.float32),
        "rope_frequencies": np.ones(sum(pairs), dtype=np.float32),
        "rope_shapes": np.array([(n, 0) for n in pairs], dtype=np.uint32).reshape(-1, 2),
        "rope_of_plane": np.array(
            [index // 2 + 1 if ropes and index % 2 == 0 else 0 for index in range(planes)],
            dtype=np.uint8,
        ),
    }


NO_SINKS = {"scales": np.zeros(0, dtype=np.uint16), "codes": np.zeros(0, dtype=np.int8)}


def raw() -> Case:
    geometry = flat_geometry(1, 1, 64)
    chunk = chunk_of("raw", geometry, 1 << 20)
    return Case(replace(chunk, arrays={"rows": np.zeros(planes_bytes(chunk), dtype=np.uint8)}))


def packed(dtype: torch.dtype = torch.float16, dim: int = 64) -> Case:
    geometry, tokens = flat_geometry(1, 1, dim, dtype), min(1 << 24, (1 << 25) // dim)
    arrays = {
        "scales": np.zeros(tokens, dtype=np.uint16),
        "codes": np.zeros(tokens * dim, dtype=np.int8),
    }
    return Case(replace(chunk_of("packed", geometry, tokens), arrays=arrays))


def lossless(dtype: torch.dtype = torch.float8_e5m2, layers: int = 1) -> Case:
    geometry, tokens = flat_geometry(layers, 8, 64, dtype), (1 << 16) // layers
    values = tokens * geometry.values_per_token
    low = np.zeros(values * (dtype.itemsize - 1), dtype=np.uint8)
    own = own_model(geometry)
    names = ("supports", "frequencies", "table_ids")
    chunk = chunk_of("lossless", geometry, tokens)
    return Case(
        replace(
            chunk,
            blocks=(constant(tokens, geometry.values_per_token),),
            arrays={name: own[name] for name in names} | {"low_bytes": low},
        )
    )


def plain(
    *, layers: int = 1, heads: int = 1, dim: int = 64, tokens: int = 1 << 17, ropes: bool = False
) -> Case:
    geometry = flat_geometry(layers, heads, dim, torch.float16)
    block = constant(tokens, geometry.values_per_token)
    arrays = own_model(geometry, ropes=ropes) | NO_SINKS
    return Case(replace(chunk_of("plain", geometry, tokens), blocks=(block,), arrays=arrays))


def escaped() -> Case:
    """Every symbol is an escape, and has its value."""
    case = plain(tokens=1 << 16)
    block = constant(1 << 16, 64, symbol=0, escapes=1 << 22)
    return replace(case, chunk=replace(case.chunk, blocks=(block,)))


def unescaped() -> Case:
    """Every symbol is an escape, and there are no values: refused, but when."""
    case = plain(tokens=1 << 20)
    block = constant(1 << 20, 64, symbol=0)
    return replace(case, chunk=replace(case.chunk, blocks=(block,)), fails=True)


def many_rotations() -> Case:
    """Layers that hold different numbers of tokens, and rotations of layers that hold none."""
    wide, narrow = PlaneShape(1, 4096), PlaneShape(1, 2)
    geometry = Geometry((wide, PlaneShape(0, 0)) * 128 + (narrow, narrow) * 64, torch.bfloat16)
    held = (0,) * 128 + tuple(4096 - index for index in range(64))
    chunk = replace(chunk_of("plain", geometry, 4096), tokens_held=held)
    parts = [(0, 128 * 4096), *((tokens, 4) for tokens in held[128:])]
    arrays = own_model(replace(geometry), ropes=True) | NO_SINKS
    return Case(replace(chunk, blocks=tuple(constant(*part) for part in parts), arrays=arrays))


def rotated_nothing() -> Case:
    """A rotation of heads that are none: as wide as it likes, and refused."""
    tall, narrow = PlaneShape(0, 1 << 16), PlaneShape(1, 2)
    geometry = Geometry((tall, narrow), torch.bfloat16)
    arrays = own_model(geometry, ropes=True) | NO_SINKS
    tokens = 1 << 20
    chunk = replace(chunk_of("plain", geometry, tokens), arrays=arrays)
    return Case(replace(chunk, blocks=(constant(tokens, 2),)), fails=True)


def padded_lanes() -> Case:
    """One coefficient is coded, and 31 columns of padding with it."""
    rows = 1 << 21
    case = plain(dim=1, tokens=rows)
    block = replace(
        constant(rows, 1),
        active=np.ones(1, dtype=np.bool_),
        constants=np.zeros(0, dtype=np.uint8),
        lanes=32,
        sizes=np.array([64], dtype=np.uint32),
        words=np.concatenate([np.ones(64, np.uint16), np.zeros(32, np.uint16)]),
    )
    return replace(case, chunk=replace(case.chunk, blocks=(block,)), fails=True)


def many_coefficients() -> Case:
    """A row of a million coefficients."""
    return plain(heads=1 << 12, dim=1 << 8, tokens=1)


def many_substreams() -> Case:
    """A substream for each token and eight coefficients."""
    rows = 1 << 19
    case = plain(dim=64, tokens=rows)
    block = replace(
        constant(rows, 64),
        active=np.ones(64, dtype=np.bool_),
        constants=np.zeros(0, dtype=np.uint8),
        rows_per_substream=1,
        sizes=np.zeros(rows * 8, dtype=np.uint32),
    )
    return replace(case, chunk=replace(case.chunk, blocks=(block,)), fails=True)


def paper(*, dim: int = 64, tokens: int = 1 << 17, tables: int = 1) -> Case:
    geometry = flat_geometry(1, 1, dim, torch.float16)
    anchors = -(-tokens // 10)
    own = own_model(geometry, tables=tables)
    ids = np.arange(2 * dim, dtype=np.uint32) % tables
    arrays = {name: own[name] for name in ("supports", "frequencies", "steps")}
    arrays |= {"table_ids": ids, "scales": np.zeros(2 * tokens, dtype=np.uint16)}
    blocks = constant(anchors, dim), constant(tokens - anchors, dim)
    return Case(replace(chunk_of("paper", geometry, tokens), blocks=blocks, arrays=arrays))


def paper_tables() -> Case:
    """Two tables for each coefficient."""
    return paper(dim=1 << 17, tokens=1, tables=1 << 18)


def adaptive(*, dim: int = 1024, tokens: int = 1 << 14, group: int = 1024) -> Case:
    geometry = flat_geometry(1, 1, dim, torch.float16)
    weights = -(-dim * (group - 1) // 2 // dim)
    arrays = own_model(geometry) | NO_SINKS
    arrays |= {
        "fineness": np.zeros(dim, dtype=np.uint8),
        "group": np.array([group], dtype=np.uint32),
        "weight_step": np.ones(1, dtype=np.float32),
        "spreads": np.zeros(dim, dtype=np.uint8),
    }
    blocks = constant(tokens, dim), constant(weights, dim)
    return Case(replace(chunk_of("adaptive", geometry, tokens), blocks=blocks, arrays=arrays))


def wide_adaptive() -> Case:
    """Hundreds of weights for each coefficient, and little else."""
    return adaptive(dim=1 << 16, tokens=512)


def transform() -> Case:
    """The golden profile, and as many tokens as there is memory for."""
    profile = read_profile(GOLDEN / "transform-float32.profile")
    tokens = np.zeros(1 << 19, dtype=np.uint32)
    return transform_of(profile, tokens)


def transform_of(profile: Profile, tokens: np.ndarray, symbol: int = 128) -> Case:
    """A chunk in which every coefficient is the same everywhere."""
    assert profile.transform is not None
    rung = len(profile.levels) - 1
    chunk = chunk_of("transform", profile.geometry, len(tokens))
    arrays = NO_SINKS | {
        "tokens_digest": tokens_digest(tokens),
        "rung": np.array([rung], dtype=np.uint8),
        "distortion": np.zeros(2, dtype=np.float32),
    }
    classes = profile.num_active[rung]
    if len(classes) > 1:
        arrays["multipliers"] = np.ones(len(tokens), dtype=np.uint8)
    blocks = tuple(constant(len(tokens), count, symbol) for count in classes[0])
    chunk = replace(
        chunk,
        level=profile.levels[rung].name,
        profile_hash=profile.hash,
        blocks=blocks,
        arrays=arrays,
    )
    return Case(chunk, profile, tokens)


CASES: dict[str, Callable[[], Case]] = {
    "raw": raw,
    "packed": packed,
    "packed-float8": lambda: packed(torch.float8_e4m3fn),
    "packed-dim-1": lambda: packed(dim=1),
    "lossless-float8": lossless,
    "lossless-float32": lambda: lossless(torch.float32),
    "lossless-layers": lambda: lossless(torch.bfloat16, 16),
    "plain": plain,
    "plain-rotated": lambda: plain(ropes=True),
    "plain-layers": lambda: plain(layers=32, tokens=1 << 14, ropes=True),
    "plain-dim-1": lambda: plain(dim=1, tokens=1 << 23),
    "plain-escapes": escaped,
    "plain-no-escapes": unescaped,
    "plain-many-rotations": many_rotations,
    "plain-rotated-nothing": rotated_nothing,
    "plain-padded-lanes": padded_lanes,
    "plain-many-coefficients": many_coefficients,
    "plain-many-substreams": many_substreams,
    "paper": paper,
    "paper-one-row": lambda: paper(dim=1 << 21, tokens=1),
    "paper-tables": paper_tables,
    "adaptive": adaptive,
    "adaptive-wide": wide_adaptive,
    "adaptive-narrow-groups": lambda: adaptive(dim=1 << 12, tokens=1 << 12, group=1),
    "transform": transform,
}


def profile_file(tensors: dict[str, np.ndarray], **described: object) -> bytes:
    """A profile of these tensors and of one layer."""
    whole = {
        "format": "cachegen-profile-1",
        "codec": "paper",
        "fingerprint": "00" * 32,
        "dtype": "bfloat16",
        "levels": [{"name": "high", "step": 1, "bound": 0, "quality": None, "domains": {}}],
        "default_level": "high",
        "notes": {},
    }
    return save(tensors, metadata={"profile": json.dumps(whole | described)})


def profile_of_tables() -> bytes:
    """As many tables as `paper` may have: two for each coefficient."""
    count = 1 << 18
    own = own_model(flat_geometry(1, 1, 8), tables=2 * count)
    names = ("supports", "frequencies", "rope_frequencies", "rope_shapes", "rope_of_plane")
    tensors = {name: own[name] for name in names} | {"steps": np.ones(2, dtype=np.float32)}
    tensors["table_ids.high"] = np.arange(2 * count, dtype=np.uint32)
    return profile_file(tensors, planes=[[1 << 9, 1 << 9], [0, 0]])


def profile_in_bytes() -> bytes:
    """A transform of one wide group, in bytes."""
    rows, columns = 1 << 10, 1 << 14
    own = own_model(flat_geometry(1, 1, 8))
    names = ("supports", "frequencies", "rope_frequencies", "rope_shapes", "rope_of_plane")
    tensors = {name: own[name] for name in names} | {
        "num_sinks": np.zeros(1, dtype=np.uint32),
        "unit": np.ones(1),
        "strangeness": np.ones(1),
        "num_active.high": np.zeros(6, dtype=np.uint32),
        "table_ids.high": np.zeros(0, dtype=np.uint8),
        "planes.0": np.arange(2, dtype=np.uint32),
        "group_means.0": np.zeros(columns, dtype=np.float32),
        "prediction.0": np.zeros((0, columns), dtype=np.float16),
        "synthesis.0": np.zeros((0, columns), dtype=np.float16),
        "synthesis_bytes.0": np.ones((rows, columns), dtype=np.int8),
        "synthesis_exponents.0": np.zeros(columns, dtype=np.int8),
        "variances.0": np.zeros(rows, dtype=np.float32),
        "importance.position": np.zeros(NUM_POSITION_TERMS, dtype=np.float32),
        "importance.0": np.zeros(1, dtype=np.float32),
    }
    planes = [[128, 128], [0, 0]]
    return profile_file(tensors, planes=planes, codec="transform", format="cachegen-profile-2")


def profile_of_lists() -> bytes:
    """A description as long as it may be, of what takes most memory."""
    lists: list[list[object]] = [[] for _ in range(1_000_000)]
    return profile_file({}, planes=lists)


def manifest_of_lists() -> bytes:
    return b"[" + b"[]," * ((16 << 20) // 3 - 2) + b"[]]"


def manifest_of_names() -> bytes:
    """As many values as a manifest may have, each under a name."""
    return b"{" + b",".join(b'"%013d":1' % number for number in range((16 << 20) // 18 - 1)) + b"}"


def manifest_of_escapes() -> bytes:
    """A string that is six times as long when it is written the one way."""
    return b'["' + b"\x7f" * ((16 << 20) - 4) + b'"]'


def chunk_of_blocks() -> bytes:
    """As many blocks as there may be, of a bit for each coefficient."""
    columns = 1 << 16
    block = replace(
        constant(0, columns),
        active=np.ones(columns, dtype=np.bool_),
        constants=np.zeros(0, dtype=np.uint8),
    )
    geometry = flat_geometry(1, 1 << 8, 1 << 8)
    return pack(replace(chunk_of("plain", geometry, 1), blocks=(block,) * 256))


def named_profile(data: bytes) -> Profile:
    """A profile, and its name, for which it is written again."""
    profile = read_profile(data)
    assert len(profile.hash) == 32
    return profile


# What a reader takes at most for each byte it reads: the input itself is not counted.
READERS: dict[str, tuple[Callable[[], bytes], Callable[[bytes], object], int]] = {
    "profile of tables": (profile_of_tables, named_profile, 8),
    "profile in bytes": (profile_in_bytes, named_profile, 8),
    "profile of lists": (profile_of_lists, read_profile, 30),
    "manifest of lists": (manifest_of_lists, read_manifest, 2),
    "manifest of names": (manifest_of_names, read_manifest, 16),
    "manifest of escapes": (manifest_of_escapes, read_manifest, 16),
    "chunk of blocks": (chunk_of_blocks, unpack, 10),
}


def measure_reader(name: str) -> Peak:
    """Read what takes most memory for its size."""
    make, read, times = READERS[name]
    data, error = make(), ""
    taken = -clear()
    try:
        kept = read(data)  # alive until the peak is read
    except CacheGenError as found:
        kept, error = None, str(found)[:200]
    taken += resident("VmHWM")
    del kept
    return Peak(name, len(data), 0, times * len(data), taken, error)


def clear() -> int:
    """Forget the peak; what is in memory, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def resident(name: str) -> int:
    """VmHWM or VmRSS of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(name)))


def measure(name: str) -> Peak:
    """Decode a case, and compare."""
    case = CASES[name]()
    chunk = case.chunk
    request = DecodeRequest(case.profile, case.tokens, 2)
    working = codec_of(chunk.codec).working_bytes(chunk, request)
    size, error = len(pack(chunk)), ""
    before = clear()
    try:
        decode_chunk(chunk, profile=case.profile, tokens=case.tokens, max_bytes=1 << 34)
    except CacheGenError as found:
        error = str(found)
    taken = resident("VmHWM") - before
    return Peak(name, size, planes_bytes(chunk), working, taken, error)


def forked(name: str) -> Peak:
    """As `measure`, in a child."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        with os.fdopen(writing, "w") as pipe:
            json.dump(asdict((measure_reader if name in READERS else measure)(name)), pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        found = pipe.read()
    os.waitpid(child, 0)
    return Peak(**json.loads(found))


def main(names: list[str]) -> None:
    warnings.simplefilter("ignore")
    for name in names or [*CASES, *READERS]:
        print(json.dumps(asdict(forked(name))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
