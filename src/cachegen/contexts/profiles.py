"""Profiles by their hash: the caller's, else the store's."""

from __future__ import annotations

import hashlib

from cachegen.bitstream.manifest import Manifest, profile_key
from cachegen.codec.profile import NO_PROFILE, Profile, read_profile
from cachegen.contexts.objects import check_digest
from cachegen.errors import CacheGenError, KeyNotFound
from cachegen.store import Store, read

MAX_PROFILE_BYTES = 1 << 30
_NOT_READ = KeyNotFound("a profile that no manifest named")


class Profiles:
    """Reads each profile at most once, all of them before anything is decoded."""

    def __init__(self, store: Store, given: Profile | None) -> None:
        """Nothing is read yet."""
        self._store = store
        self._given = given
        self._found: dict[bytes, Profile | CacheGenError] = {}

    def read_for(self, manifest: Manifest) -> None:
        """Read what its objects need and is not there; what cannot be had raises in `get`."""
        for profile_hash in _named(manifest):
            if profile_hash not in self._found:
                self._found[profile_hash] = self._had(profile_hash)

    def get(self, profile_hash: bytes) -> Profile | None:
        """A profile that was read; None for the hash that stands for none.

        Raises:
            KeyNotFound, BitstreamError: it is not stored, or damaged.
            StoreError: the store failed.
        """
        if profile_hash == NO_PROFILE:
            return None
        found = self._found.get(profile_hash, _NOT_READ)
        if isinstance(found, Profile):
            return found
        raise found

    def ladder(self, manifest: Manifest) -> Profile | None:
        """The one whose levels a context is stored at: the caller's, else the first to be had."""
        if self._given is not None:
            return self._given
        had = (self._found[profile_hash] for profile_hash in _named(manifest))
        return next((profile for profile in had if isinstance(profile, Profile)), None)

    def _had(self, profile_hash: bytes) -> Profile | CacheGenError:
        if self._given is not None and self._given.hash == profile_hash:
            return self._given
        key = profile_key(profile_hash)
        try:
            data = read(self._store, key, max_bytes=MAX_PROFILE_BYTES)
            check_digest(hashlib.sha256(data).digest(), profile_hash, field=key)
            return read_profile(data)
        except CacheGenError as error:
            return error


def _named(manifest: Manifest) -> dict[bytes, None]:
    """The profiles that the objects of a context need, in the order they are named."""
    objects = (stored for chunk in manifest.chunks for stored in chunk.objects)
    return {stored.profile_hash: None for stored in objects if stored.profile_hash != NO_PROFILE}
