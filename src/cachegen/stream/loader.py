"""`load`: the longest stored prefix of a context, fetched and decoded, never wrong."""

from __future__ import annotations

from itertools import product

import torch

from cachegen.bitstream.identity import Tokens, tokens_from_bytes, tokens_to_bytes
from cachegen.codec.profile import Profile
from cachegen.errors import StoreError
from cachegen.store import Store
from cachegen.stream.discovery import find_prefix
from cachegen.stream.lineage import Lineage
from cachegen.stream.objects import describe_failure
from cachegen.stream.preference import choose_level
from cachegen.stream.profiles import Profiles
from cachegen.stream.result import LoadResult
from cachegen.stream.run import Recompute, Run
from cachegen.stream.timing import Clock


def load(
    tokens: Tokens,
    *,
    store: Store,
    profile: Profile | None = None,
    level: str | None = None,
    recompute: Recompute | None = None,
    fingerprint: bytes,
    salt: bytes = b"",
    extra: bytes = b"",
    exact: bool = True,
    device: torch.device | str = "cpu",
) -> LoadResult:
    """Load the cache of as many of these tokens as are stored, from the first one on.

    While a chunk is decoded the next one is fetched. A chunk that is missing, damaged or coded
    with a profile that cannot be had is loaded at another level, else recomputed, else the result
    ends before it; the result's chunks say which and why.

    Args:
        tokens: the context, possibly longer than what is stored.
        store: where to look.
        profile: statistics of the model; where another one is needed it is read from the store.
        level: the level to load; the profile's default when None. Chunks that lack it come at the
            next better one, or else at the next smaller.
        recompute: ``recompute(tokens, *, past)`` gives the cache of a token range, after the
            cache of all tokens before it (None where there are none).
        fingerprint: SHA-256 that identifies the model.
        salt: the tenant, as it was saved.
        extra: whatever else changes the KV of equal tokens, as it was saved.
        exact: False to accept also KV that was computed on top of lossily loaded KV.
        device: where the cache is to live.

    Raises:
        ValueError: no tokens, a level that nothing is stored at, or a recomputed cache that does
            not fit.
        StoreError: the store cannot be asked, and there is no `recompute`.
    """
    known = tokens_from_bytes(tokens_to_bytes(tokens))
    if not len(known):
        raise ValueError("expected at least one token, got none")
    clock, profiles = Clock(), Profiles(store, profile)
    lineages = [
        Lineage(fingerprint, salt, extra, exact=is_exact, complete=is_complete)
        for is_exact, is_complete in product((True,) if exact else (True, False), (True, False))
    ]

    def run(num_tokens: int) -> Run:
        wanted = known[:num_tokens]
        return Run(wanted, store, profiles, recompute, fingerprint, device, clock)

    try:
        with clock.measure("lookup"):
            prefix = find_prefix(known, store=store, lineages=lineages)
            ladder = profiles.main(prefix.manifest) if prefix.manifest else None
    except StoreError as error:
        if recompute is None:
            raise
        alone = run(len(known))
        alone.replace(0, len(known), reason=describe_failure(error))
        return alone.result(exact=True, lost=())
    if prefix.manifest is None:
        return run(0).result(exact=True, lost=prefix.lost)
    asked = choose_level(prefix.manifest, ladder, level)
    loading = run(prefix.manifest.num_tokens)
    loading.load(prefix.manifest, level=asked, profile=ladder)
    return loading.result(exact=prefix.manifest.exact, lost=prefix.lost)
