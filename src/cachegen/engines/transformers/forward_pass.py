"""One forward pass on top of a cache, free of what other passes left in the model."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from cachegen.engines.transformers.model import accepts, plain_model
from cachegen.engines.transformers.regime import is_length_dependent
from cachegen.forks import PerProcess

_ALONE = PerProcess(threading.RLock)


@torch.no_grad()
def read_on(model: PreTrainedModel, ids: torch.Tensor, cache: Cache, **inputs: Any) -> None:
    """Add the keys and values of tokens to a cache.

    Models whose rotations depend on the length keep the frequencies of the last pass in a buffer:
    of these, one pass runs at a time.

    Args:
        model: wrapped or not.
        ids: int64 (texts, tokens), on the model's device.
        cache: of the tokens before.
        inputs: whatever else the model takes.
    """
    run = plain_model(model)
    few_logits = {"logits_to_keep": 1} if accepts(run, "logits_to_keep") else {}
    with ExitStack() as stack:
        if is_length_dependent(run):
            stack.enter_context(_ALONE())
        stack.enter_context(_without_leftovers(run))
        run(input_ids=ids, past_key_values=cache, use_cache=True, **inputs, **few_logits)


@contextmanager
def _without_leftovers(model: PreTrainedModel) -> Iterator[None]:
    """Without what an earlier text with images did to positions (M-RoPE), which is put back."""
    found = [(m, m.rope_deltas) for m in model.modules() if "rope_deltas" in vars(m)]
    for module, _ in found:
        module.rope_deltas = None
    try:
        yield
    finally:
        for module, before in found:
            module.rope_deltas = before
