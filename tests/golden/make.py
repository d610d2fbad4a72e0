"""Makes the golden files: ``python tests/golden/make.py``.

Everything starts from integers that a hash function gives, so that no floating-point operation
takes part in the bytes. The cache that a chunk stands for is stored beside it as decoded when the
file was made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from cachegen import kernels
from cachegen.bitstream.chunk import decode
from cachegen.bitstream.format import pack
from cachegen.bitstream.manifest import ChunkEntry, Manifest, StoredObject, object_key
from cachegen.codec.encoded import Block, EncodedChunk
from cachegen.codec.levels import EncodingLevel, Quality
from cachegen.codec.profile import Profile
from cachegen.codec.rope import Rope, RopeMap
from cachegen.codec.tables import narrow_ids, pack_tables
from cachegen.codec.transform.basis import LayerGroup, Transform
from cachegen.kvcache import Geometry, KVCache, PlaneShape

HERE = Path(__file__).parent
NUM_TOKENS, WINDOW, START = 23, 7, 2
SINKS = 2
TOKENS = range(NUM_TOKENS)
PLANES = (PlaneShape(2, 4), PlaneShape(2, 4), PlaneShape(1, 6), PlaneShape(1, 3))
WIDTHS = (16, 9)
ROPE = RopeMap((Rope((1.0, 0.25)), Rope((1.0, 0.5), interleaved=True)), (0, None, 1, None))


@dataclass(frozen=True)
class Golden:
    """A chunk made from integers.

    Attributes:
        chunk: what is packed.
        symbols: the symbols of each block.
        table_ids: the tables of each block's coefficients.
        frequencies: those tables.
        profile: what decoding needs.
    """

    chunk: EncodedChunk
    symbols: tuple[np.ndarray, ...] = ()
    table_ids: tuple[np.ndarray, ...] = ()
    frequencies: np.ndarray | None = None
    profile: Profile | None = None


def integers(name: str, shape: tuple[int, ...], low: int, high: int) -> np.ndarray:
    """Integers of low <= i < high that depend on the name alone."""
    count = int(np.prod(shape))
    words = np.frombuffer(hashlib.shake_256(name.encode()).digest(4 * count), dtype="<u4")
    return (words.astype(np.int64) % (high - low) + low).reshape(shape)


def table(reach: int, center: int = 128, escape: int = 8) -> np.ndarray:
    """Frequencies that fall linearly from the center, symbol 0 apart."""
    weights = np.zeros(256, dtype=np.int64)
    distance = np.arange(-reach, reach + 1)
    scale = 4000 // (reach + 1) ** 2
    weights[center - reach : center + reach + 1] = scale * (reach + 1 - abs(distance))
    weights[0] = escape
    weights[center] += 4096 - weights.sum()
    return weights.astype(np.uint16)


def peaked(name: str, shape: tuple[int, int], reach: int, center: int = 128) -> np.ndarray:
    """Symbols around the center; every third coefficient is constant."""
    half = reach // 2 + 1
    symbols = center + integers(name, shape, 0, half) - integers(name + "'", shape, 0, half)
    symbols[:, ::3] = center + 1
    return symbols.astype(np.uint8)


def code(
    symbols: np.ndarray,
    ids: np.ndarray,
    frequencies: np.ndarray,
    *,
    lanes: int,
    grid: tuple[int, int],
    escapes: np.ndarray,
) -> Block:
    """A block of these symbols, as section 3 of FORMAT.md says."""
    active = (symbols != symbols[:1]).any(axis=0)
    order = sorted(np.flatnonzero(active), key=lambda c: ids[c])
    padding = -len(order) % lanes
    skip = np.zeros((1, 256), dtype=np.uint16)
    skip[0, :2] = 4095, 1
    columns = np.pad(symbols[:, order], ((0, 0), (0, padding)))
    tables = np.array([*ids[order], *[len(frequencies)] * padding], dtype=np.int32)
    coding = kernels.Coding(tables, np.concatenate([frequencies, skip]), lanes, *grid)
    coded = kernels.encode(columns, coding)
    return Block(
        num_rows=len(symbols),
        active=active,
        constants=symbols[0, ~active],
        escapes=escapes,
        lanes=lanes,
        rows_per_substream=grid[0],
        groups_per_substream=grid[1],
        sizes=coded.sizes,
        words=coded.words,
    )


def chunk_of(codec: str, dtype: torch.dtype, **contents: object) -> EncodedChunk:
    """A chunk of two layers, the second of which holds a window."""
    return EncodedChunk(
        level=f"golden-{codec}",
        codec=codec,
        geometry=Geometry(PLANES, dtype),
        start=START,
        num_tokens=NUM_TOKENS,
        tokens_held=(NUM_TOKENS, WINDOW),
        fingerprint=bytes(range(32)),
        chunk_id=bytes(range(32, 64)),
        **contents,
    )


def num_values() -> int:
    """Values that the cache holds."""
    return WIDTHS[0] * NUM_TOKENS + WIDTHS[1] * WINDOW


def raw(dtype: torch.dtype) -> Golden:
    rows = integers("raw", (num_values() * dtype.itemsize,), 0, 120).astype(np.uint8)
    return Golden(chunk_of("raw", dtype, arrays={"rows": rows}))


def packed(dtype: torch.dtype) -> Golden:
    vectors = 2 * 2 * NUM_TOKENS + 2 * WINDOW
    scales = integers("scales", (vectors,), 0x3C00, 0x3D00).astype(np.uint16)
    codes = integers("codes", (num_values(),), -127, 128).astype(np.int8)
    return Golden(chunk_of("packed", dtype, arrays={"scales": scales, "codes": codes}))


def lossless(dtype: torch.dtype) -> Golden:
    frequencies = np.stack([table(9, center=118), table(20, center=118)])
    ids = integers("lossless ids", (sum(WIDTHS),), 0, 2)
    low = integers("low", (num_values() * (dtype.itemsize - 1),), 0, 256).astype(np.uint8)
    shapes = ((NUM_TOKENS, WIDTHS[0]), (WINDOW, WIDTHS[1]))
    symbols = [peaked(f"lossless {shape}", shape, 8, center=118) for shape in shapes]
    none = (np.empty(0, np.int8),) * 2
    arrays = {**tables_of(frequencies, ids), "low_bytes": low}
    return blocks_of("lossless", dtype, symbols, [ids], frequencies, none, arrays)


def plain(dtype: torch.dtype) -> Golden:
    frequencies, ids, symbols, escapes = plain_symbols()
    arrays = {
        **tables_of(frequencies, ids),
        **sinks(),
        "means": means(),
        "steps": steps(),
        "rope_frequencies": np.array([1.0, 0.25, 1.0, 0.5], dtype=np.float32),
        "rope_shapes": np.array([[2, 0], [2, 1]], dtype=np.uint32),
        "rope_of_plane": np.array([1, 0, 2, 0], dtype=np.uint8),
    }
    return blocks_of("plain", dtype, symbols, [ids], frequencies, escapes, arrays)


def adaptive(dtype: torch.dtype) -> Golden:
    """Groups of 6, 6 and 4 in the first layer; the window's layer is not predicted."""
    golden = plain(dtype)
    count = sum(WIDTHS)
    frequencies = np.concatenate([golden.frequencies, [table(5)]])
    below = np.zeros(2 * count, dtype=np.int64)
    below[:36] = integers("weights", (36,), -2, 3)
    weights = (128 + below.reshape(2, count)).astype(np.uint8)
    ids = np.full(count, len(frequencies) - 1)
    none = np.empty(0, np.int8)
    block = code(weights, ids, frequencies, lanes=8, grid=(2, 2), escapes=none)
    dims = sum(plane.dim for plane in PLANES)
    arrays = {
        **golden.chunk.arrays,
        **tables_of(frequencies, integers("plain ids", (count,), 0, 3)),
        "fineness": integers("fineness", (dims,), 0, 13).astype(np.uint8),
        "group": np.array([6], dtype=np.uint32),
        "weight_step": np.array([0.125], dtype=np.float32),
        "spreads": integers("spreads", (count,), 56, 80).astype(np.uint8),
    }
    blocks = (*golden.chunk.blocks, block)
    chunk = chunk_of("adaptive", dtype, blocks=blocks, arrays=arrays)
    table_ids = (*golden.table_ids, ids)
    return Golden(chunk, (*golden.symbols, weights), table_ids, frequencies)


def plain_with_profile(dtype: torch.dtype) -> Golden:
    frequencies, ids, symbols, escapes = plain_symbols()
    quality = Quality(kl=0.003, rel_ppl=0.001, top1=0.99, num_tokens=128)
    profile = Profile(
        codec="plain",
        fingerprint=bytes(range(32)),
        geometry=Geometry(PLANES, dtype),
        levels=(EncodingLevel("golden-plain", "plain", 1.0, quality),),
        default_level="golden-plain",
        rope=ROPE,
        scales=steps(),
        means=means(),
        frequencies=frequencies,
        table_ids=(ids,),
    )
    golden = blocks_of("plain", dtype, symbols, [ids], frequencies, escapes, sinks())
    chunk = replace(golden.chunk, profile_hash=profile.hash)
    return replace(golden, chunk=chunk, profile=profile)


def paper(dtype: torch.dtype) -> Golden:
    frequencies = np.stack([table(30), table(4)])
    ids = np.repeat([0, 1], sum(WIDTHS))
    symbols = []
    for rows, width in ((NUM_TOKENS, WIDTHS[0]), (WINDOW, WIDTHS[1])):
        anchors = -(-rows // 10)
        symbols.append(peaked(f"anchors {rows}", (anchors, width), 28))
        symbols.append(peaked(f"deltas {rows}", (rows - anchors, width), 3))
    scales = integers("paper scales", (2 * NUM_TOKENS + 2 * WINDOW,), 0x3F00, 0x4000)
    none = (np.empty(0, np.int8),) * 4
    arrays = {
        **tables_of(frequencies, ids),
        "steps": np.array([0.5, 0.5, 1.0, 1.0], dtype=np.float32),
        "scales": scales.astype(np.uint16),
    }
    halves = np.split(ids, 2)
    return blocks_of("paper", dtype, symbols, halves, frequencies, none, arrays)


def transform(dtype: torch.dtype) -> Golden:
    """Both layers hold every token; coded at the second of two rungs."""
    frequencies = np.stack([table(3), table(9)])
    active = ((3, 2), (7, 5))
    ids = [integers(f"transform ids {sum(a)}", (sum(a),), 0, 2) for a in active]
    profile = transform_profile(dtype, frequencies, ids, active)
    rows = NUM_TOKENS - SINKS
    symbols = [peaked(f"transform {count}", (rows, count), 3) for count in active[1]]
    symbols[0][3, 4], symbols[0][20, 1], symbols[1][5, 2] = 0, 0, 0
    escapes = np.array([-500, 300], dtype=np.int16), np.array([100], dtype=np.int8)
    block_ids = np.split(ids[1], active[1][:1])
    blocks = tuple(
        code(whole, chosen, frequencies, lanes=8, grid=(8, 1), escapes=escape)
        for whole, chosen, escape in zip(symbols, block_ids, escapes, strict=True)
    )
    digest = hashlib.sha256(np.array(TOKENS, dtype="<u4").tobytes()).digest()
    arrays = {
        "scales": integers("sinks of all", (6 * SINKS,), 0x3C00, 0x3D00).astype(np.uint16),
        "codes": integers("their codes", (sum(WIDTHS) * SINKS,), -127, 128).astype(np.int8),
        "tokens_digest": np.frombuffer(digest, dtype=np.uint8),
        "rung": np.array([1], dtype=np.uint8),
        "distortion": np.array([0.0625, 0.25], dtype=np.float32),
    }
    chunk = chunk_of("transform", dtype, blocks=blocks, arrays=arrays)
    chunk = replace(chunk, tokens_held=(NUM_TOKENS,) * 2, profile_hash=profile.hash)
    return Golden(chunk, tuple(symbols), tuple(block_ids), frequencies, profile)


def transform_profile(
    dtype: torch.dtype,
    frequencies: np.ndarray,
    ids: list[np.ndarray],
    active: tuple[tuple[int, ...], ...],
) -> Profile:
    """A layer is a group; the last three token ids are beyond the vocabulary."""
    features = integers("features", (NUM_TOKENS - 3, 3), -127, 128).astype(np.int8)
    groups = tuple(
        LayerGroup(
            planes=planes,
            means=(integers(f"means {width}", (width,), -16, 17) / 8).astype(np.float32),
            prediction=sixty_fourths(f"prediction {width}", (3, width)) / np.float16(64),
            synthesis=sixty_fourths(f"synthesis {width}", (8, width)),
            analysis=sixty_fourths(f"analysis {width}", (width, 8)),
            variances=np.ones(8, dtype=np.float32),
        )
        for planes, width in zip(((0, 1), (2, 3)), WIDTHS, strict=True)
    )
    return Profile(
        codec="transform",
        fingerprint=bytes(range(32)),
        geometry=Geometry(PLANES, dtype),
        levels=(
            EncodingLevel("golden-transform", "transform", 0.5, bound=0.25),
            EncodingLevel("fine", "transform", 0.125, bound=0.0625),
        ),
        default_level="fine",
        rope=ROPE,
        frequencies=frequencies,
        table_ids=tuple(ids),
        transform=Transform(
            groups, (features[:, :2], features[:, 2:]), num_sinks=4, unit=0.5, ood_score=0.125
        ),
        num_active=tuple((own,) for own in active),
    )


def sixty_fourths(name: str, shape: tuple[int, int]) -> np.ndarray:
    return (integers(name, shape, -64, 65) / 64).astype(np.float16)


def tables_of(frequencies: np.ndarray, ids: np.ndarray) -> dict[str, np.ndarray]:
    supports, packed_frequencies = pack_tables(frequencies)
    return {
        "supports": supports,
        "frequencies": packed_frequencies,
        "table_ids": narrow_ids(ids),
    }


def sinks() -> dict[str, np.ndarray]:
    """The first tokens of the first layer; a window's first tokens are no sinks."""
    return {
        "scales": integers("sinks", (4 * SINKS,), 0x3C00, 0x3D00).astype(np.uint16),
        "codes": integers("sink codes", (WIDTHS[0] * SINKS,), -127, 128).astype(np.int8),
    }


def means() -> np.ndarray:
    return (integers("means", (sum(WIDTHS),), -16, 17) / 8).astype(np.float32)


def steps() -> np.ndarray:
    return np.array([0.25, 0.5, 0.125, 1.0], dtype=np.float32)


def plain_symbols() -> tuple[np.ndarray, np.ndarray, list[np.ndarray], tuple[np.ndarray, ...]]:
    """Tables, their ids, and the symbols and escapes of both blocks."""
    frequencies = np.stack([table(3), table(9), table(20)])
    ids = integers("plain ids", (sum(WIDTHS),), 0, 3)
    first = peaked("plain first", (NUM_TOKENS - SINKS, WIDTHS[0]), 3)
    second = peaked("plain second", (WINDOW, WIDTHS[1]), 3)
    first[3, 4], first[20, 1], second[5, 2] = 0, 0, 0
    escapes = np.array([-700, 300], dtype=np.int16), np.array([100], dtype=np.int8)
    return frequencies, ids, [first, second], escapes


def blocks_of(
    codec: str,
    dtype: torch.dtype,
    symbols: list[np.ndarray],
    ids: list[np.ndarray],
    frequencies: np.ndarray,
    escapes: tuple[np.ndarray, ...],
    arrays: dict[str, np.ndarray],
) -> Golden:
    """A chunk of coded blocks; the parts take turns with the kinds of tables `ids`."""
    block_ids = [
        half for part in zip(*(np.split(i, [WIDTHS[0]]) for i in ids), strict=True) for half in part
    ]
    grids = ((8, 5, 1), (16, 3, 2), (32, 4, 1), (8, 100, 100))
    blocks = tuple(
        code(whole, chosen, frequencies, lanes=lanes, grid=(rows, groups), escapes=escape)
        for whole, chosen, escape, (lanes, rows, groups) in zip(
            symbols, block_ids, escapes, grids, strict=False
        )
    )
    chunk = chunk_of(codec, dtype, blocks=blocks, arrays=arrays)
    return Golden(chunk, tuple(symbols), tuple(block_ids), frequencies)


def of_layers(golden: Golden, *layers: int) -> Golden:
    """The same chunk as one of these layers of a model."""
    arrays = golden.chunk.arrays | {"layers": np.array(layers, dtype=np.uint16)}
    return replace(golden, chunk=replace(golden.chunk, arrays=arrays))


def manifest() -> Manifest:
    """A context of 300 tokens, stored down to its last multiple of 64."""
    chunks = []
    for index, (start, stop) in enumerate([(0, 128), (128, 300)]):
        chunk_id = bytes([index] * 32)
        stored = []
        for level, profile_hash in (("high", bytes([9] * 32)), ("lossless", bytes(32))):
            key = object_key(
                chunk_id, start=start, stop=stop, profile_hash=profile_hash, level=level
            )
            stored.append(StoredObject(level, key, 1000 + stop, bytes([8] * 32), profile_hash))
        chunks.append(ChunkEntry(chunk_id, start, stop, tuple(stored)))
    return Manifest(bytes([7] * 32), bytes(range(32)), 256, True, tuple(chunks))


def manifest_of_kinds() -> Manifest:
    """The same, stored by kinds of layers but for one level, which is whole."""
    whole, chunks = manifest(), []
    for chunk in whole.chunks:
        _, exact = chunk.objects
        kinds = ["full", "window-100", "window-512"]
        keys = [
            object_key(
                chunk.chunk_id, start=chunk.start, stop=chunk.stop, level="lossless", layers=k
            )
            for k in kinds
        ]
        apart = (replace(exact, key=key, layers=k) for key, k in zip(keys, kinds, strict=True))
        chunks.append(replace(chunk, objects=(chunk.objects[0], *apart)))
    return replace(whole, chunks=tuple(chunks), windows=(512, 512, 0, 100))


MAKERS: dict[str, Callable[[], Golden]] = {
    "raw-float16": lambda: raw(torch.float16),
    "packed-bfloat16": lambda: packed(torch.bfloat16),
    "lossless-bfloat16": lambda: lossless(torch.bfloat16),
    "lossless-layers-bfloat16": lambda: of_layers(lossless(torch.bfloat16), 1, 4),
    "lossless-float32": lambda: lossless(torch.float32),
    "lossless-float8": lambda: lossless(torch.float8_e4m3fn),
    "plain-float32": lambda: plain(torch.float32),
    "adaptive-float32": lambda: adaptive(torch.float32),
    "plain-profile-float32": lambda: plain_with_profile(torch.float32),
    "paper-float32": lambda: paper(torch.float32),
    "transform-float32": lambda: transform(torch.float32),
}


def planes_of(kv: KVCache) -> dict[str, torch.Tensor]:
    """The planes as they are stored beside a chunk."""
    return {f"plane{index}": plane.contiguous() for index, plane in enumerate(kv.planes())}


def main() -> None:
    """Write every golden file."""
    (HERE / "manifest.json").write_bytes(manifest().to_bytes())
    (HERE / "manifest-kinds.json").write_bytes(manifest_of_kinds().to_bytes())
    for name, make in MAKERS.items():
        golden = make()
        data = pack(golden.chunk)
        (HERE / f"{name}.cgkv").write_bytes(data)
        kv = decode(data, profile=golden.profile, tokens=TOKENS)
        save_file(planes_of(kv), HERE / f"{name}.safetensors")
        if golden.profile is not None:
            (HERE / f"{name}.profile").write_bytes(golden.profile.file_bytes)
        print(f"{name}: {len(data)} bytes")


if __name__ == "__main__":
    main()
