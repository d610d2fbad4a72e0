"""Profiles by their hash: the caller's, else the store's."""

from __future__ import annotations

import hashlib

from cachegen.bitstream.manifest import Manifest, profile_key
from cachegen.codec.profile import NO_PROFILE, Profile, read_profile
from cachegen.errors import BitstreamError, KeyNotFound
from cachegen.store import Store, read
from cachegen.stream.objects import check_digest
from cachegen.stream.time_limit import within

MAX_PROFILE_BYTES = 1 << 30


class Profiles:
    """Reads each profile at most once."""

    def __init__(self, store: Store, given: Profile | None, *, limit_s: float) -> None:
        """Nothing is read yet; ``limit_s`` is the longest that reading one may take."""
        self._store = store
        self._limit_s = limit_s
        self._given = given
        self._found: dict[bytes, Profile | KeyNotFound | BitstreamError] = {}

    def get(self, profile_hash: bytes) -> Profile | None:
        """The profile of this hash; None for the hash that stands for none.

        Raises:
            KeyNotFound, BitstreamError: it is not stored, or damaged.
            StoreError: the store fails.
        """
        if profile_hash == NO_PROFILE:
            return None
        if self._given is not None and self._given.hash == profile_hash:
            return self._given
        if profile_hash not in self._found:
            self._found[profile_hash] = self._read(profile_hash)
        found = self._found[profile_hash]
        if isinstance(found, Profile):
            return found
        raise found

    def main(self, manifest: Manifest) -> Profile | None:
        """The profile whose ladder a context's levels are from: the caller's, else the first named.

        Raises:
            StoreError: the store fails.
        """
        if self._given is not None:
            return self._given
        named = (o.profile_hash for chunk in manifest.chunks for o in chunk.objects)
        try:
            return self.get(next((h for h in named if h != NO_PROFILE), NO_PROFILE))
        except (KeyNotFound, BitstreamError):
            return None

    def _read(self, profile_hash: bytes) -> Profile | KeyNotFound | BitstreamError:
        key = profile_key(profile_hash)
        try:
            data = within(
                self._limit_s, lambda: read(self._store, key, max_bytes=MAX_PROFILE_BYTES)
            )
            check_digest(hashlib.sha256(data).digest(), profile_hash, field=key)
            return read_profile(data)
        except (KeyNotFound, BitstreamError) as error:
            return error
