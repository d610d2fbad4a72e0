"""Objects and profiles in a store: may be absent, damaged, or first written by another process."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from cachegen.bitstream.format import unpack
from cachegen.bitstream.identity import LINK_TOKENS, TOKEN_BYTES, tokens_from_bytes
from cachegen.bitstream.manifest import (
    MAX_SIZE_BYTES,
    ChunkEntry,
    Manifest,
    manifest_key,
    profile_key,
    read_manifest,
    tokens_key,
)
from cachegen.codec.encoded import EncodedChunk, named_layers
from cachegen.codec.profile import NO_PROFILE, Profile, read_profile
from cachegen.errors import (
    BitstreamError,
    CacheGenError,
    KeyNotFound,
    ProfileMismatch,
    StoreError,
    TokensMismatch,
)
from cachegen.store import Buffer, Store

Item = TypeVar("Item")
# The second replaces a damaged object; further ones need other writers. Arbitrary: 3 to 10 does.
_ATTEMPTS = 4
# Profiles of the chunks of a context: one, and more where others stored the same text with
# profiles of their own. Arbitrary: 4 to 64 do; each costs a request.
MAX_PROFILES = 16
# Chunks of a context: one for every 64 tokens, the least that `save` cuts, and so many more of any
# length, of turns that were saved one by one. Each costs a load 15 to 20 ms if it cannot be had
# (500 and 2,000 of them, by hand). Arbitrary: 64 to 1,024 more do, and 4,096 (6 million tokens at
# 1,536 a chunk) to 16,384 altogether.
MORE_CHUNKS, MAX_CHUNKS = 256, 8192
# Levels and kinds of layers of a chunk: 12 levels are known, and models have up to 3 kinds.
# Arbitrary: 64 to 1,024 do.
MAX_OBJECTS = 256


def read_at_most(
    store: Store, key: str, max_bytes: int, *, range: tuple[int, int] | None = None
) -> bytes:
    """A whole object, or a range of it, of bounded length.

    It takes up to twice its size, in however small pieces it comes.

    Raises:
        KeyNotFound: there is none.
        BitstreamError: it is longer.
        StoreError: the store fails.
    """
    with closing_of(store.get(key, range)) as pieces:
        return taken_at_most(pieces, key, max_bytes)


def taken_at_most(pieces: Iterator[Buffer], key: str, max_bytes: int) -> bytes:
    """The rest of an object that was opened, of bounded length.

    Raises:
        BitstreamError: it is longer.
        StoreError: the store fails.
    """
    found = bytearray()
    for piece in pieces:
        if len(found) + len(piece) > max_bytes:
            raise BitstreamError(f"expected at most {max_bytes} bytes, got more", field=key)
        found += piece
    return bytes(found)


@contextmanager
def closing_of(pieces: Iterator[Item]) -> Iterator[Iterator[Item]]:
    """End a transfer, or a listing, as soon as nothing more of it is wanted."""
    try:
        yield pieces
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            close()


def put_or_adopt(
    store: Store,
    key: str,
    data: bytes,
    *,
    max_bytes: int,
    check: Callable[[bytes], object],
    parent: str | None = None,
) -> bytes:
    """Store bytes under a key, or return the stored ones if they pass the check.

    An object that does not pass, or is longer than ``max_bytes``, is removed and replaced.

    Raises:
        StoreError: the store fails, or the object cannot be replaced.
    """
    for _ in range(_ATTEMPTS):
        if store.put(key, data, parent=parent):
            return data
        found = adopt(store, key, max_bytes=max_bytes, check=check)
        if found is not None:
            return found
    raise StoreError(f"{key}: the object there is damaged and {_ATTEMPTS} times came back")


def adopt(
    store: Store, key: str, *, max_bytes: int, check: Callable[[bytes], object]
) -> bytes | None:
    """The stored bytes if they pass the check; else None, and the object is removed.

    More than ``max_bytes`` do not pass, and are not read.
    """
    try:
        data = read_at_most(store, key, max_bytes)
        check(data)
    except KeyNotFound:
        return None
    except (BitstreamError, ProfileMismatch, TokensMismatch):
        store.delete(key)
        return None
    return data


def read_stored_manifest(store: Store, context_id: bytes, *, fingerprint: bytes) -> Manifest:
    """The manifest stored under a context's id.

    Raises:
        KeyNotFound: there is none.
        BitstreamError: the object is no manifest, one of another context or model, or one of more
            chunks, objects or profiles than a load can handle.
        StoreError: the store fails.
    """
    key = manifest_key(context_id)
    manifest = checked_manifest(read_at_most(store, key, MAX_SIZE_BYTES), context_id)
    if manifest.fingerprint != fingerprint:
        raise BitstreamError("it describes a context of another model", field=key)
    return manifest


def checked_manifest(data: bytes, context_id: bytes) -> Manifest:
    """The manifest that the bytes under a context's id are.

    Raises:
        BitstreamError: they are no manifest, one of another context, or one of more chunks, objects
            or profiles than a load can handle.
    """
    key, manifest = manifest_key(context_id), read_manifest(data)
    if manifest.context_id != context_id:
        raise BitstreamError("it describes another context", field=key)
    _check_extent(manifest, key)
    return manifest


def _check_extent(manifest: Manifest, key: str) -> None:
    most_chunks = min(manifest.num_tokens // LINK_TOKENS + MORE_CHUNKS, MAX_CHUNKS)
    for what, found, most in (
        ("chunks", len(manifest.chunks), most_chunks),
        ("objects of a chunk", max(len(c.objects) for c in manifest.chunks), MAX_OBJECTS),
        ("profiles", len(_named(manifest)), MAX_PROFILES),
    ):
        if found > most:
            raise BitstreamError(f"expected at most {most} {what}, got {found}", field=key)


def fetch_tokens(store: Store, chunk: ChunkEntry, *, start: int) -> list[int]:
    """The tokens of a context's last chunk from ``start`` on, of the ids stored with the context.

    Raises:
        KeyNotFound: the token ids are not stored.
        BitstreamError: their number is not the context's.
        StoreError: the store fails.
    """
    key, size_bytes = tokens_key(chunk.chunk_id), TOKEN_BYTES * chunk.stop
    (found,) = store.lookup([key])
    if found not in (None, size_bytes):
        raise BitstreamError(f"expected {size_bytes} bytes, got {found}", field=key)
    span = (TOKEN_BYTES * start, size_bytes)
    data = read_at_most(store, key, span[1] - span[0], range=span)
    if len(data) != span[1] - span[0]:
        raise BitstreamError(f"expected {span[1] - span[0]} bytes, got {len(data)}", field=key)
    own: list[int] = tokens_from_bytes(data).tolist()
    return own


def check_digest(found: bytes, expected: bytes, *, field: str) -> None:
    """Check that a SHA-256 digest is the expected one.

    Raises:
        BitstreamError: they differ.
    """
    if found != expected:
        raise BitstreamError(f"expected SHA-256 {expected.hex()}, got {found.hex()}", field=field)


def open_chunk(
    data: Buffer,
    *,
    entry: ChunkEntry,
    level: str,
    fingerprint: bytes,
    layers: Sequence[int] | None = None,
) -> EncodedChunk:
    """Unpack an encoded chunk, and check that it is this entry's at this level.

    ``layers`` are the layers that it must hold; None for all of the model's.

    Raises:
        BitstreamError: the bytes are damaged, or another chunk's.
        ProfileMismatch: the chunk is another model's.
    """
    chunk = unpack(data)
    if chunk.fingerprint != fingerprint:
        raise ProfileMismatch(
            f"expected a chunk of model {fingerprint.hex()}, got one of {chunk.fingerprint.hex()}"
        )
    for field, found, expected in (
        ("chunk_id", chunk.chunk_id.hex(), entry.chunk_id.hex()),
        ("start", chunk.start, entry.start),
        ("num_tokens", chunk.num_tokens, entry.num_tokens),
        ("level", chunk.level, level),
        ("layers", named_layers(chunk), None if layers is None else tuple(layers)),
    ):
        if found != expected:
            raise BitstreamError(f"expected {expected}, got {found}", field=field)
    return chunk


def describe_failure(error: CacheGenError) -> str:
    """The kind of error and its message, to record as a reason."""
    return f"{type(error).__name__}: {error}"


# Above what `cachegen calibrate` writes by default for 20 GB of weights: 5% of them.
MAX_PROFILE_BYTES = 1 << 30
_NOT_READ = KeyNotFound("a profile that no manifest named")


class Profiles:
    """Reads each profile at most once, all of them before anything is decoded."""

    def __init__(
        self, store: Store, given: Profile | None, *, max_bytes: int = MAX_PROFILE_BYTES
    ) -> None:
        """Start with nothing read; ``given`` is the caller's profile, if any.

        All that are read have at most ``max_bytes`` together.
        """
        self._store, self._left_bytes = store, min(max_bytes, MAX_PROFILE_BYTES)
        self._given = given
        self._found: dict[bytes, Profile | CacheGenError] = {}

    def read_for(self, manifest: Manifest) -> None:
        """Read the profiles that its objects need; failures are raised by `get`."""
        for profile_hash in _named(manifest):
            if profile_hash not in self._found:
                self._found[profile_hash] = self._had(profile_hash)

    def get(self, profile_hash: bytes) -> Profile | None:
        """A profile that was read; None for the hash of no profile.

        Raises:
            KeyNotFound, BitstreamError: it is not stored, or it is damaged.
            StoreError: the store failed.
        """
        if profile_hash == NO_PROFILE:
            return None
        found = self._found.get(profile_hash, _NOT_READ)
        if isinstance(found, Profile):
            return found
        raise found

    def ladder(self, manifest: Manifest) -> Profile | None:
        """The profile whose levels a context is stored at: the caller's, else the first read."""
        if self._given is not None:
            return self._given
        had = (self._found[profile_hash] for profile_hash in _named(manifest))
        return next((profile for profile in had if isinstance(profile, Profile)), None)

    def _had(self, profile_hash: bytes) -> Profile | CacheGenError:
        if self._given is not None and self._given.hash == profile_hash:
            return self._given
        key = profile_key(profile_hash)
        try:
            data = read_at_most(self._store, key, self._left_bytes)
            self._left_bytes -= len(data)
            check_digest(hashlib.sha256(data).digest(), profile_hash, field=key)
            return read_profile(data)
        except CacheGenError as error:
            return error


def _named(manifest: Manifest) -> dict[bytes, None]:
    """Hashes of the profiles that a manifest's objects need, in their order."""
    objects = (stored for chunk in manifest.chunks for stored in chunk.objects)
    return {stored.profile_hash: None for stored in objects if stored.profile_hash != NO_PROFILE}
