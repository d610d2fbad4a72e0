"""What a context costs on this machine: bytes of its levels, seconds to compute and to decode.

Seconds are what loads learn of a machine: the fit of their prefills and of the chunks that they
decoded (`cachegen.policy.costs`).
"""

from __future__ import annotations

from dataclasses import replace

from cachegen.codec.profile import Profile
from cachegen.engines import transformers as engine
from cachegen.engines.transformers.probe import support_of
from cachegen.evaluation.coder import Tokens
from cachegen.evaluation.judge import Models
from cachegen.evaluation.times.apart import apart
from cachegen.evaluation.times.storing import default_level, store_context, stored_levels
from cachegen.kvcache import KVCache
from cachegen.loading.load import load
from cachegen.loading.measurements import Measurements
from cachegen.loading.resources import measurements_of
from cachegen.policy.fixed import Fixed
from cachegen.simulation.stored import context_from
from cachegen.simulation.varying import Machine
from cachegen.store.memory import MemoryStore

# From a request to its first byte. Arbitrary: 0 to 50 ms do.
_REQUEST_S = 0.001


def measured(
    models: Models, profile: Profile | None, kv: KVCache, tokens: Tokens, *, runs: int
) -> Machine:
    """Store a context in memory, load it at every level, prefill it, and keep what that took.

    Args:
        models: whose context it is.
        profile: of the model; None for levels that need none.
        kv: the context's cache.
        tokens: of the context.
        runs: loads of each level.
    """
    store, own = MemoryStore(), engine.fingerprint(models.writer)
    with apart():
        manifest = store_context(
            kv, model=models.writer, tokens=tokens, profile=profile, store=store
        )
        for level in stored_levels(profile) * runs:
            load(tokens, store=store, profile=profile, controller=Fixed(level), fingerprint=own)
        costs = measure_prefill(models, tokens).costs()
    context = context_from(manifest, profile=profile, default_level=default_level(profile))
    return Machine(f"{len(tokens)} tokens", context, replace(costs, request_s=_REQUEST_S))


def measure_prefill(models: Models, tokens: Tokens) -> Measurements:
    """What loads of this model know by now, with the times of prefilling these tokens."""
    device = str(support_of(models.writer).device)
    known = measurements_of(engine.fingerprint(models.writer), device)
    engine.measure_prefill(models.prefill.model, tokens, known=known)
    return known
