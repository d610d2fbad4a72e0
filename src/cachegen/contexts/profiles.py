"""Profiles by their hash, from the caller or the store."""

from __future__ import annotations

import hashlib

from cachegen.bitstream.manifest import Manifest, profile_key
from cachegen.codec.profile import NO_PROFILE, Profile, read_profile
from cachegen.contexts.objects import check_digest
from cachegen.errors import CacheGenError, KeyNotFound
from cachegen.store import Store, read

# Above what `cachegen calibrate` writes by default for 20 GB of weights: 5% of them.
MAX_PROFILE_BYTES = 1 << 30
_NOT_READ = KeyNotFound("a profile that no manifest named")


class Profiles:
    """Reads each profile at most once, all of them before anything is decoded."""

    def __init__(self, store: Store, given: Profile | None) -> None:
        """Start with nothing read; ``given`` is the caller's profile, if any."""
        self._store = store
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
            data = read(self._store, key, max_bytes=MAX_PROFILE_BYTES)
            check_digest(hashlib.sha256(data).digest(), profile_hash, field=key)
            return read_profile(data)
        except CacheGenError as error:
            return error


def _named(manifest: Manifest) -> dict[bytes, None]:
    """Hashes of the profiles that a manifest's objects need, in their order."""
    objects = (stored for chunk in manifest.chunks for stored in chunk.objects)
    return {stored.profile_hash: None for stored in objects if stored.profile_hash != NO_PROFILE}
