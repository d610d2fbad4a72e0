"""What a context costs on this machine: bytes of its levels, seconds to compute and to decode.

Seconds are what loads learn of a machine: the fit of their prefills and of the chunks that they
decoded (`cachegen.policy.costs`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cachegen.codec.profile import Profile
from cachegen.engines.transformers import fingerprint, measure_prefill
from cachegen.engines.transformers.probe import support_of
from cachegen.evaluation.coder import Tokens
from cachegen.evaluation.times.apart import apart
from cachegen.evaluation.times.storing import default_level, store_context, stored_levels
from cachegen.kvcache import KVCache
from cachegen.loading.load import load
from cachegen.loading.resources import measurements_of
from cachegen.policy.fixed import Fixed
from cachegen.simulation.stored import context_from
from cachegen.simulation.varying import Machine
from cachegen.store.memory import MemoryStore

# From a request to its first byte. Arbitrary: 0 to 50 ms do.
_REQUEST_S = 0.001


def measured(
    model: Any, profile: Profile | None, kv: KVCache, tokens: Tokens, *, runs: int
) -> Machine:
    """Store a context in memory, load it at every level, prefill it, and keep what that took.

    Args:
        model: a transformers model in its own dtype.
        profile: of the model; None for levels that need none.
        kv: the context's cache.
        tokens: of the context.
        runs: loads of each level.
    """
    store, own = MemoryStore(), fingerprint(model)
    with apart():
        manifest = store_context(kv, model=model, tokens=tokens, profile=profile, store=store)
        for level in stored_levels(profile) * runs:
            load(tokens, store=store, profile=profile, controller=Fixed(level), fingerprint=own)
        measure_prefill(model, tokens)
        costs = measurements_of(own, str(support_of(model).device)).costs()
    context = context_from(manifest, profile=profile, default_level=default_level(profile))
    return Machine(f"{len(tokens)} tokens", context, replace(costs, request_s=_REQUEST_S))
