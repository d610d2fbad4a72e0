"""How long a model takes to prefill, measured before the first load needs to know."""

from __future__ import annotations

import time
from collections.abc import Sequence

from transformers import PreTrainedModel

from cachegen.engines.transformers.cache import capture
from cachegen.engines.transformers.identity.fingerprint import fingerprint
from cachegen.engines.transformers.inputs import Tokens, token_ids
from cachegen.engines.transformers.probe import support_of
from cachegen.engines.transformers.regime import Regime
from cachegen.kvcache import KVCache
from cachegen.loading.accelerator import synchronize
from cachegen.loading.measurements import Measurements
from cachegen.loading.resources import measurements_of

# The least chunk, a short context, and the pieces that long contexts are prefilled in. Arbitrary:
# other lengths between these do.
LENGTHS = (64, 512, 2048)


def measure_prefill(
    model: PreTrainedModel,
    tokens: Tokens,
    *,
    lengths: Sequence[int] = LENGTHS,
    known: Measurements | None = None,
) -> None:
    """Prefill the first tokens of a text, and some of them after others, and keep the times.

    Loads learn from every chunk they recompute, so this only spares the first one a guess.

    Args:
        model: in eval mode.
        tokens: any text, best as long as what will be loaded.
        lengths: how many tokens to prefill; those that the text does not have are left out.
        known: where times are kept; by default those of this model's loads.
    """
    ids = token_ids(tokens)
    if known is None:
        known = measurements_of(fingerprint(model), str(support_of(model).device))
    capture(model, ids[: min(lengths)])
    for length in [length for length in lengths if length <= len(ids)]:
        past = timed_capture(model, ids[:length], known=known)
        following = ids[length : length + min(lengths)]
        if following:
            timed_capture(model, following, past=past, known=known)
    known.save()


def timed_capture(
    model: PreTrainedModel,
    ids: Tokens,
    *,
    past: KVCache | None = None,
    known: Measurements,
    regime: Regime | None = None,
) -> KVCache:
    """`capture`, whose time is kept."""
    began_s = time.perf_counter()
    kv = capture(model, ids, past=past, regime=regime)
    synchronize(kv.device)
    start = past.num_tokens if past else 0
    known.add_prefill(kv.num_tokens, start, time.perf_counter() - began_s)
    return kv
