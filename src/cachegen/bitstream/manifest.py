"""Manifests of contexts, keys of stored objects, kinds of layers (FORMAT.md, section 5).

A kind is of layers whose attention reaches equally far.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from cachegen.bitstream.header import (
    LEVEL_NAME,
    MAX_LAYERS,
    MAX_TOKENS,
    SOME_LAYERS_VERSION,
    VERSION,
    wrong_version,
)
from cachegen.bitstream.identity import LINK_TOKENS
from cachegen.bitstream.strict_json import Fields, read_canonical, to_canonical
from cachegen.codec.levels import EXACT_LEVELS
from cachegen.errors import BitstreamError

ALL = "all"
FULL = "full"
KIND = re.compile(r"all|full|window-[1-9][0-9]{0,9}")
# FORMAT.md, section 5.
LARGEST_WINDOW = 2**32 - 1


def kind_of(window: int) -> str:
    """The kind of a layer whose tokens attend to so many, themselves included; 0 for all."""
    return FULL if window == 0 else f"window-{window}"


def window_of(kind: str) -> int:
    """The inverse of `kind_of`; 0 for `all` too."""
    return 0 if kind in (ALL, FULL) else int(kind.removeprefix("window-"))


def layers_by_kind(windows: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """The layers of each kind, by the windows of all layers; `full` comes first."""
    layers: dict[int, list[int]] = {}
    for layer, window in enumerate(windows):
        layers.setdefault(window, []).append(layer)
    return {kind_of(window): tuple(layers[window]) for window in sorted(layers)}


def tokens_before(kind: str, place: int) -> int:
    """How many tokens before a place layers need to go on there.

    At least one where there is any: a window without a past is a shape that nobody would know.
    """
    window = window_of(kind)
    return place if window == 0 else min(place, max(window - 1, 1))


# FORMAT.md, section 5, fixes the numbers of this module.
MAX_SIZE_BYTES = 16 << 20

# A bound on memory, not on manifests: an object takes 300 bytes and six values, a window two bytes.
# Values take 60 bytes and more each when they are read.
_BYTES_A_VALUE = 16

_LARGEST_VERSION = 2**16 - 1
_MAX_TOKENS = 2**48
_MAX_OBJECT_BYTES = 2**48
_NO_PROFILE = bytes(32)
_KEY = re.compile(r"[A-Za-z0-9._/-]{1,512}")


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A chunk at one level, or some layers of it.

    Attributes:
        level: name of the level.
        key: where the bytes are.
        size_bytes: how many there are.
        sha256: their digest.
        profile_hash: profile needed to decode them; 32 zero bytes when there is none.
        layers: the kind of layers it holds.
    """

    level: str
    key: str
    size_bytes: int
    sha256: bytes
    profile_hash: bytes = _NO_PROFILE
    layers: str = ALL


@dataclass(frozen=True, slots=True)
class ChunkEntry:
    """A token range of the context.

    Attributes:
        chunk_id: identity of the tokens up to `stop`.
        start: first token.
        stop: token after the last.
        objects: the levels it is stored at; several of a level where it is split by layers.
    """

    chunk_id: bytes
    start: int
    stop: int
    objects: tuple[StoredObject, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens covered."""
        return self.stop - self.start

    def at_level(self, level: str) -> tuple[StoredObject, ...]:
        """All objects of a level."""
        return tuple(stored for stored in self.objects if stored.level == level)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is stored for the first `num_tokens` tokens of a context.

    The last chunk may cover more tokens than the manifest: KV is causal, so its first tokens are
    right for every context that shares them.

    Attributes:
        context_id: identity of these tokens.
        fingerprint: the model; 32 zero bytes when unknown.
        num_tokens: tokens described.
        exact: whether the KV was computed without lossily loaded KV before it.
        chunks: adjacent token ranges from token 0 on.
        windows: per layer, how many tokens its tokens attend to, themselves included, 0 for all;
            empty where no chunk is split by layers.
    """

    context_id: bytes
    fingerprint: bytes
    num_tokens: int
    exact: bool
    chunks: tuple[ChunkEntry, ...]
    windows: tuple[int, ...] = ()

    def to_bytes(self) -> bytes:
        """The manifest as canonical JSON.

        Raises:
            ValueError: a manifest that no reader would accept; the message names the field.
        """
        data = to_canonical(_manifest_to_json(self))
        try:
            read_manifest(data)
        except BitstreamError as error:
            raise ValueError(f"this manifest cannot be written: {error}") from error
        return data


def read_manifest(data: bytes | bytearray | memoryview) -> Manifest:
    """Read a manifest.

    Raises:
        BitstreamError: anything but a consistent manifest in canonical JSON; `field` is the path.
    """
    if len(data) > MAX_SIZE_BYTES:
        raise BitstreamError(
            f"expected at most {MAX_SIZE_BYTES} bytes, got {len(data)}", field="manifest"
        )
    data = bytes(data)
    values = sum(data.count(mark) for mark in (b",", b"[", b"{"))
    if values > MAX_LAYERS + len(data) // _BYTES_A_VALUE:
        raise BitstreamError(
            "expected digests, keys and sizes, got shorter values", field="manifest"
        )
    document = read_canonical(data, field="manifest")
    keys = ("version", "context_id", "fingerprint", "num_tokens", "exact", "chunks")
    is_split = isinstance(document, dict) and document.get("version") == SOME_LAYERS_VERSION
    fields = Fields(document, "manifest", (*keys, "windows") if is_split else keys)
    version = fields.integer("version", low=0, high=_LARGEST_VERSION)
    if version not in (VERSION, SOME_LAYERS_VERSION):
        fields.fail("version", wrong_version(version))
    exact, windows = fields.flag("exact"), _read_windows(fields) if is_split else ()
    kinds = frozenset(layers_by_kind(windows)) if is_split else None
    manifest = Manifest(
        context_id=fields.digest("context_id"),
        fingerprint=fields.digest("fingerprint"),
        num_tokens=fields.integer("num_tokens", low=1, high=_MAX_TOKENS),
        exact=exact,
        chunks=tuple(
            _read_chunk(item, path, exact=exact, kinds=kinds)
            for item, path in fields.items("chunks")
        ),
        windows=windows,
    )
    _check_ranges(manifest, fields)
    return manifest


def object_key(
    chunk_id: bytes,
    *,
    start: int,
    stop: int,
    profile_hash: bytes = _NO_PROFILE,
    level: str,
    layers: str = ALL,
) -> str:
    """Where a chunk, or a kind of its layers, is stored at a level."""
    profile = "none" if profile_hash == _NO_PROFILE else profile_hash.hex()
    what = f"v{VERSION}/{level}" if layers == ALL else f"v{SOME_LAYERS_VERSION}/{level}/{layers}"
    return f"chunks/{chunk_id.hex()}/{start}-{stop}/{profile}/{what}"


def manifest_key(context_id: bytes) -> str:
    """Where the manifest of a context is stored."""
    return f"contexts/{context_id.hex()}"


def tokens_key(context_id: bytes) -> str:
    """Where the token ids of a context are stored."""
    return f"tokens/{context_id.hex()}"


def profile_key(profile_hash: bytes) -> str:
    """Where a profile is stored."""
    return f"profiles/{profile_hash.hex()}"


def _manifest_to_json(manifest: Manifest) -> dict[str, object]:
    is_split = bool(manifest.windows)
    whole: dict[str, object] = {
        "version": SOME_LAYERS_VERSION if is_split else VERSION,
        "context_id": manifest.context_id.hex(),
        "fingerprint": manifest.fingerprint.hex(),
        "num_tokens": manifest.num_tokens,
        "exact": manifest.exact,
        "chunks": [_chunk_to_json(chunk, is_split=is_split) for chunk in manifest.chunks],
    }
    return whole | {"windows": list(manifest.windows)} if is_split else whole


def _chunk_to_json(chunk: ChunkEntry, *, is_split: bool) -> dict[str, object]:
    return {
        "chunk_id": chunk.chunk_id.hex(),
        "start": chunk.start,
        "stop": chunk.stop,
        "objects": [_object_to_json(stored, is_split=is_split) for stored in chunk.objects],
    }


def _object_to_json(stored: StoredObject, *, is_split: bool) -> dict[str, object]:
    whole: dict[str, object] = {
        "level": stored.level,
        "key": stored.key,
        "size_bytes": stored.size_bytes,
        "sha256": stored.sha256.hex(),
        "profile_hash": stored.profile_hash.hex(),
    }
    return whole | {"layers": stored.layers} if is_split else whole


def _read_windows(fields: Fields) -> tuple[int, ...]:
    """The windows of all layers, at least one of which is not 0."""
    windows = [
        value if type(value) is int and 0 <= value <= LARGEST_WINDOW else None
        for value, _ in fields.items("windows")
    ]
    if len(windows) > MAX_LAYERS or None in windows or not any(windows):
        fields.fail(
            "windows",
            f"expected an integer from 0 to {LARGEST_WINDOW} for each of at most {MAX_LAYERS} "
            f"layers, one of them not 0; got {str(windows)[:200]}",
        )
    return tuple(window for window in windows if window is not None)


def _read_chunk(
    value: object, path: str, *, exact: bool, kinds: frozenset[str] | None
) -> ChunkEntry:
    fields = Fields(value, path, ("chunk_id", "start", "stop", "objects"))
    start = fields.integer("start", low=0, high=_MAX_TOKENS)
    entry = ChunkEntry(
        chunk_id=fields.digest("chunk_id"),
        start=start,
        stop=fields.integer("stop", low=start + 1, high=min(_MAX_TOKENS, start + MAX_TOKENS)),
        objects=tuple(
            _read_object(item, where, is_split=kinds is not None)
            for item, where in fields.items("objects")
        ),
    )
    _check_levels(entry, fields, kinds or frozenset({ALL}))
    _check_objects(entry, fields, exact=exact)
    return entry


def _read_object(value: object, path: str, *, is_split: bool) -> StoredObject:
    keys = ("level", "key", "size_bytes", "sha256", "profile_hash")
    fields = Fields(value, path, (*keys, "layers") if is_split else keys)
    return StoredObject(
        level=fields.text("level", LEVEL_NAME),
        key=fields.text("key", _KEY),
        size_bytes=fields.integer("size_bytes", low=1, high=_MAX_OBJECT_BYTES),
        sha256=fields.digest("sha256"),
        profile_hash=fields.digest("profile_hash"),
        layers=fields.text("layers", KIND) if is_split else ALL,
    )


def _check_levels(entry: ChunkEntry, fields: Fields, kinds: frozenset[str]) -> None:
    """Every level is there once: all layers in one object, or each kind in one."""
    found: dict[str, list[str]] = {}
    for stored in entry.objects:
        found.setdefault(stored.level, []).append(stored.layers)
    for level, layers in found.items():
        if len(set(layers)) < len(layers):
            fields.fail("objects", f"a level occurs twice: {level!r}")
        if set(layers) not in ({ALL}, kinds):
            expected = f"expected one object, or one for each of {sorted(kinds)[:20]}"
            fields.fail("objects", f"{level!r}: {expected}; got {sorted(layers)[:20]}")


def _check_objects(entry: ChunkEntry, fields: Fields, *, exact: bool) -> None:
    for stored in entry.objects:
        key = object_key(
            entry.chunk_id,
            start=entry.start,
            stop=entry.stop,
            profile_hash=stored.profile_hash,
            level=stored.level,
            layers=stored.layers,
        )
        if stored.key != key:
            fields.fail("objects", f"expected the key {key!r}, got {stored.key!r}")
        if not exact and stored.level in EXACT_LEVELS:
            fields.fail("objects", f"KV that is not exact cannot be offered as {stored.level!r}")


def _check_ranges(manifest: Manifest, fields: Fields) -> None:
    chunks, num_tokens = manifest.chunks, manifest.num_tokens
    if chunks[0].start != 0:
        fields.fail("chunks[0].start", f"expected 0, got {chunks[0].start}")
    for index, (left, right) in enumerate(pairwise(chunks), 1):
        if left.stop != right.start:
            fields.fail(f"chunks[{index}].start", f"expected {left.stop}, got {right.start}")
    last = chunks[-1]
    if not last.start < num_tokens <= last.stop:
        fields.fail("num_tokens", f"expected {last.start + 1} to {last.stop}, got {num_tokens}")
    inside = last.stop - last.stop % LINK_TOKENS
    if num_tokens not in (last.stop, inside):
        fields.fail("num_tokens", f"expected {last.stop}, or {inside} in it; got {num_tokens}")
    if (num_tokens == last.stop) != (manifest.context_id == last.chunk_id):
        fields.fail("context_id", "expected the last chunk's id exactly where both end together")
