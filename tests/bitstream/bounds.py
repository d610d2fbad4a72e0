"""Every bound that FORMAT.md states, each with inputs that break it.

A bound is a phrase of FORMAT.md, word for word, and changes of a valid chunk, manifest or profile
that a reader must refuse, with the field that the error names. Phrases that sound like bounds and
are none that a reader could check stand in `OTHERS`, with the reason.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from safetensors.numpy import load, save

from cachegen.bitstream.arrays import ArrayEntry, make_entry, pieces_of, sort_key
from cachegen.bitstream.chunk import decode
from cachegen.bitstream.format import block_to_arrays, pack, unpack
from cachegen.bitstream.header import Header, header_to_bytes, layers_of
from cachegen.bitstream.manifest import object_key, read_manifest
from cachegen.codec.codec import decode_chunk
from cachegen.codec.encoded import Block, EncodedChunk
from cachegen.codec.profile import Profile, read_profile
from cachegen.codec.transform.importance import NUM_POSITION_TERMS, Importance
from cachegen.kvcache import PlaneShape
from tests.codec.peaks import adaptive, constant, transform_of

GOLDEN = Path(__file__).parents[1] / "golden"
TOKENS = np.arange(23)
FIXED, RUN, ENTRY = 144, 24, 24
Arrays = list[tuple[int | None, str, np.ndarray]]


@dataclass(frozen=True)
class Broken:
    """What a reader must refuse.

    Attributes:
        field: that the error names, as a pattern.
        read: reads the broken input.
    """

    field: str
    read: Callable[[], object]


@dataclass(frozen=True)
class Bound:
    """A phrase of FORMAT.md, and what breaks it."""

    phrase: str
    breaking: tuple[Callable[[], Broken], ...]


def golden(name: str) -> bytes:
    return (GOLDEN / name).read_bytes()


def profile_of(name: str) -> Profile | None:
    path = GOLDEN / f"{name}.profile"
    return read_profile(path) if path.exists() else None


def sealed(data: bytes | bytearray) -> bytes:
    """The same with the right checksum of the header."""
    chunk = bytearray(data)
    (size,) = struct.unpack_from("<I", chunk, 8)
    chunk[24:32] = bytes(8)
    struct.pack_into("<Q", chunk, 24, xxhash.xxh3_64_intdigest(bytes(chunk[:size])))
    return bytes(chunk)


def reading(name: str, data: bytes) -> Callable[[], object]:
    return lambda: decode(data, profile=profile_of(name), tokens=TOKENS)


def header(
    field: str, offset: int, form: str, *values: int, name: str = "packed-bfloat16"
) -> Broken:
    """A chunk with other numbers in its header."""
    chunk = bytearray(golden(f"{name}.cgkv"))
    struct.pack_into("<" + form, chunk, offset, *values)
    return Broken(field, reading(name, sealed(chunk)))


def table_of(data: bytes) -> int:
    """Where the array table begins."""
    num_runs, level_size = struct.unpack_from("<HH", data, 44)
    return FIXED + RUN * num_runs + level_size


def entry(
    field: str, place: int, form: str, *values: int, index: int = 0, **options: str
) -> Broken:
    """A chunk with other numbers in an entry of its table."""
    data = golden(f"{options.get('name', 'packed-bfloat16')}.cgkv")
    return header(field, table_of(data) + ENTRY * index + place, form, *values, **options)


def entries(field: str, *order: int) -> Broken:
    """A chunk of two arrays with its entries in this order."""
    data = golden("packed-bfloat16.cgkv")
    table = table_of(data)
    found = [data[table + ENTRY * index : table + ENTRY * (index + 1)] for index in order]
    rest = data[table + ENTRY * 2 :]
    return Broken(field, reading("", sealed(data[:table] + b"".join(found) + rest)))


def assembled(chunk: EncodedChunk, edit: Callable[[Arrays], Arrays], **changes: Any) -> bytes:
    """A chunk's bytes, nothing checked, with other arrays."""
    arrays: Arrays = [(None, name, array) for name, array in chunk.arrays.items()]
    for index, block in enumerate(chunk.blocks):
        arrays += [(index, name, array) for name, array in block_to_arrays(block).items()]
    found: list[tuple[ArrayEntry, np.ndarray]] = [
        (make_entry(name, block, array), array) for block, name, array in edit(arrays)
    ]
    found.sort(key=lambda pair: sort_key(pair[0]))
    whole = Header(
        codec=chunk.codec,
        level=chunk.level,
        dtype=chunk.geometry.dtype,
        start=chunk.start,
        num_tokens=chunk.num_tokens,
        layers=layers_of(chunk),
        profile_hash=chunk.profile_hash,
        fingerprint=chunk.fingerprint,
        chunk_id=chunk.chunk_id,
        arrays=tuple(one for one, _ in found),
    )
    pieces = (piece for _, array in found for piece in pieces_of(array))
    return b"".join([header_to_bytes(replace(whole, **changes)), *pieces])


Change = Callable[[np.ndarray], np.ndarray]


def array(field: str, name: str, change: Change, *, of: str, block: int | None = None) -> Broken:
    """A golden chunk with another array; its length may be another, too."""

    def edit(arrays: Arrays) -> Arrays:
        assert [one for one in arrays if one[:2] == (block, name)], f"{of} has no {name}"
        return [
            (own, label, change(values) if (own, label) == (block, name) else values)
            for own, label, values in arrays
        ]

    return Broken(field, reading(of, assembled(unpack(golden(f"{of}.cgkv")), edit)))


def added(
    field: str, name: str, values: np.ndarray, *, of: str, block: int | None = None
) -> Broken:
    """A golden chunk with one array more."""
    chunk = unpack(golden(f"{of}.cgkv"))
    return Broken(field, reading(of, assembled(chunk, lambda all_: [*all_, (block, name, values)])))


def put(*places: tuple[int | tuple[int, int], object]) -> Change:
    """Other values at places."""

    def change(values: np.ndarray) -> np.ndarray:
        changed = values.copy()
        for index, value in places:
            changed[index] = value
        return changed

    return change


def document(
    field: str, path: tuple[str | int, ...], value: object, *, of: str = "manifest"
) -> Broken:
    """A golden manifest with another value."""
    whole = json.loads(golden(f"{of}.json"))
    owner = whole
    for step in path[:-1]:
        owner = owner[step]
    owner[path[-1]] = value(owner[path[-1]]) if callable(value) else value
    return manifest(field, whole)


def manifest(field: str, whole: object) -> Broken:
    data = json.dumps(whole, sort_keys=True, separators=(",", ":")).encode()
    return Broken(field, lambda: read_manifest(data))


def rekeyed(field: str, index: int, start: int, stop: int) -> Broken:
    """A golden manifest with another range of a chunk, and keys that follow from it."""
    whole = json.loads(golden("manifest.json"))
    chunk = whole["chunks"][index]
    chunk |= {"start": start, "stop": stop}
    for stored in chunk["objects"]:
        stored["key"] = object_key(
            bytes.fromhex(chunk["chunk_id"]),
            start=start,
            stop=stop,
            profile_hash=bytes.fromhex(stored["profile_hash"]),
            level=stored["level"],
        )
    return manifest(field, whole)


def tensor(field: str, name: str, change: Change | None, *, of: str = "transform") -> Broken:
    """A profile with another tensor, or without it."""
    data = PROFILES[of]()
    tensors = load(data)
    if change is None:
        del tensors[name]
    else:
        tensors[name] = change(tensors[name])
    return Broken(field, lambda: read_profile(save(tensors, metadata=_metadata(data))))


def more_tensors(field: str, tensors: dict[str, np.ndarray], *, of: str = "transform") -> Broken:
    data = PROFILES[of]()
    whole = load(data) | tensors
    return Broken(field, lambda: read_profile(save(whole, metadata=_metadata(data))))


def described(field: str, change: Callable[[dict[str, Any]], None], *, of: str = "plain") -> Broken:
    """A profile with another description."""
    data = PROFILES[of]()
    whole = json.loads(_metadata(data)["profile"])
    change(whole)
    text = json.dumps(whole)
    return Broken(field, lambda: read_profile(save(load(data), metadata={"profile": text})))


def _metadata(data: bytes) -> dict[str, str]:
    size = int.from_bytes(data[:8], "little")
    found: dict[str, str] = json.loads(data[8 : 8 + size])["__metadata__"]
    return found


def weighted() -> Profile:
    """The golden transform, with importance and every class alike."""
    profile = read_profile(GOLDEN / "transform-float32.profile")
    assert profile.transform is not None
    groups = tuple(np.zeros(1, dtype=np.float32) for _ in profile.transform.groups)
    position = np.zeros(NUM_POSITION_TERMS, dtype=np.float32)
    made = replace(
        profile,
        transform=replace(profile.transform, importance=Importance(position, groups)),
        num_active=tuple(own * 6 for own in profile.num_active),
        table_ids=tuple(np.tile(ids, 6) for ids in profile.table_ids),
    )
    return read_profile(made.file_bytes)


def in_bytes() -> bytes:
    """A weighted profile whose rows behind the first 128 are stored in bytes: there are none."""
    data = weighted().file_bytes
    tensors = load(data)
    for group in ("0", "1"):
        for name in ("synthesis", "analysis"):
            columns = tensors[f"synthesis.{group}"].shape[1]
            tensors[f"{name}_bytes.{group}"] = np.zeros((0, columns), dtype=np.int8)
            tensors[f"{name}_exponents.{group}"] = np.zeros(columns, dtype=np.int8)
    return save(tensors, metadata=_metadata(data))


PROFILES: dict[str, Callable[[], bytes]] = {
    "plain": lambda: golden("plain-profile-float32.profile"),
    "transform": lambda: golden("transform-float32.profile"),
    "weighted": lambda: weighted().file_bytes,
    "bytes": in_bytes,
}


def weighted_chunk(field: str, change: Callable[[EncodedChunk], EncodedChunk]) -> Broken:
    """A chunk of the weighted profile, changed."""
    profile = weighted()
    chunk = change(transform_of(profile, TOKENS).chunk)
    return Broken(field, lambda: decode_chunk(chunk, tokens=TOKENS, profile=profile))


def multipliers(value: int) -> Broken:
    def change(chunk: EncodedChunk) -> EncodedChunk:
        stored = put((0, value))(chunk.arrays["multipliers"])
        return replace(chunk, arrays=chunk.arrays | {"multipliers": stored})

    return weighted_chunk("multipliers", change)


def too_many_parts_of_a_step() -> Broken:
    """All of a chunk's tokens have steps of 63 eighths, and coefficients of 521 of them."""
    profile = weighted()

    def change(chunk: EncodedChunk) -> EncodedChunk:
        rows = len(chunk.arrays["multipliers"])
        counts = profile.num_active[-1][5]
        blocks = tuple(
            replace(constant(rows, count, symbol=0), escapes=np.full(rows * count, 521, np.int16))
            for count in counts
        )
        arrays = chunk.arrays | {"multipliers": np.full(rows, 63, dtype=np.uint8)}
        return replace(chunk, blocks=blocks, arrays=arrays)

    return weighted_chunk("escapes", change)


def many_groups() -> Broken:
    """A group for each of more than a million coefficients."""
    chunk = adaptive(dim=(1 << 20) + 1, tokens=1, group=1).chunk
    return Broken("group", lambda: decode_chunk(chunk))


def many_tables() -> Broken:
    """A substream whose 4,104 columns have a table each."""
    columns = 4104
    chunk = unpack(golden("paper-float32.cgkv"))
    planes = (PlaneShape(1, columns), PlaneShape(0, 0))
    geometry = replace(chunk.geometry, planes=planes)
    active = replace(
        constant(1, columns),
        active=np.ones(columns, dtype=np.bool_),
        constants=np.zeros(0, dtype=np.uint8),
        groups_per_substream=columns // 8,
        sizes=np.array([16], dtype=np.uint32),
        words=np.concatenate([np.ones(16, np.uint16), np.zeros(32, np.uint16)]),
    )
    arrays = {
        "supports": np.full((columns, 2), (128, 129), dtype=np.uint8),
        "frequencies": np.tile(np.array([1, 4094, 1], dtype=np.uint16), columns),
        "steps": np.ones(2, dtype=np.float32),
        "table_ids": np.tile(np.arange(columns, dtype=np.uint16), 2),
        "scales": np.zeros(4, dtype=np.uint16),
    }
    made = replace(
        chunk,
        geometry=geometry,
        num_tokens=2,
        tokens_held=(2,),
        blocks=(active, constant(1, columns)),
        arrays=arrays,
    )
    return Broken("table_ids", lambda: decode(pack(made)))


def paper_tables() -> Broken:
    """A chunk of `paper` with more tables than ids, and more than 256."""

    def edit(arrays: Arrays) -> Arrays:
        return [
            (block, name, tables.get(name, values) if block is None else values)
            for block, name, values in arrays
        ]

    tables = {
        "supports": np.full((257, 2), (128, 129), dtype=np.uint8),
        "frequencies": np.tile(np.array([1, 4094, 1], dtype=np.uint16), 257),
    }
    of = "paper-float32"
    return Broken("supports", reading(of, assembled(unpack(golden(f"{of}.cgkv")), edit)))


def own_tables(of: str, field: str, count: int) -> Broken:
    """A chunk with so many tables of its own."""
    chunk = unpack(golden(f"{of}.cgkv"))
    tables = {
        "supports": np.full((count, 2), (128, 129), dtype=np.uint8),
        "frequencies": np.tile(np.array([1, 4094, 1], dtype=np.uint16), count),
    }
    changed = replace(chunk, arrays=chunk.arrays | tables)
    return Broken(field, lambda: decode(pack(changed), tokens=TOKENS))


def block_shape(index: int, value: int) -> Broken:
    of = "plain-float32"
    return array(r"blocks\[0\].shape", "shape", put((index, value)), of=of, block=0)


def block(field: str, change: Callable[[Block], Block], *, of: str, index: int = 0) -> Broken:
    """A golden chunk with another block."""
    chunk = unpack(golden(f"{of}.cgkv"))
    blocks = list(chunk.blocks)
    blocks[index] = change(blocks[index])
    changed = replace(chunk, blocks=tuple(blocks))
    return Broken(field, lambda: decode_chunk(changed, profile=profile_of(of), tokens=TOKENS))


def longer(one: Block) -> Block:
    """A word more than its first substream needs."""
    words = np.insert(one.words, int(one.sizes[0]), 7)
    return replace(one, sizes=put((0, one.sizes[0] + 1))(one.sizes), words=words)


def escaped_weights(one: Block) -> Block:
    """Weights that are escapes."""
    rows, columns = one.num_rows, len(one.active)
    return constant(rows, columns, symbol=0, escapes=rows * columns)


def levels(change: Callable[[list[dict[str, Any]]], None]) -> Callable[[dict[str, Any]], None]:
    return lambda whole: change(whole["levels"])


def quality(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    numbers = dict.fromkeys(("kl", "rel_ppl", "top1", "answer_kl", "exact_match"), 0.5)
    numbers |= {"exact_match_uncompressed": 0.5, "num_tokens": 1, "num_answers": 1}

    def change(whole: dict[str, Any]) -> None:
        whole["levels"][0]["quality"] = numbers | {name: value}

    return change


def long_contexts(num_tokens: int) -> Callable[[dict[str, Any]], None]:
    """A level that was measured on contexts of so many tokens."""

    def change(whole: dict[str, Any]) -> None:
        quality("kl", 0.5)(whole)
        first = whole["levels"][0]
        first["long"] = {"num_tokens": num_tokens, "quality": first["quality"], "domains": {}}

    return change


def named(name: str) -> Callable[[dict[str, Any]], None]:
    def change(whole: dict[str, Any]) -> None:
        whole["levels"][0]["name"] = name

    return change


def _doubled_key() -> Broken:
    data = PROFILES["plain"]()
    text = _metadata(data)["profile"].replace('"codec"', '"codec":"plain","codec"', 1)
    return Broken("profile", lambda: read_profile(save(load(data), metadata={"profile": text})))


def _long_header() -> Broken:
    data = PROFILES["plain"]()
    text = _metadata(data)["profile"] + " " * (4 << 20)
    return Broken("header", lambda: read_profile(save(load(data), metadata={"profile": text})))


def bound(phrase: str, *breaking: Callable[[], Broken]) -> Bound:
    return Bound(phrase, breaking)
