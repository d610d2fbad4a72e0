"""Between KVCache and the caches of transformers: capture by prefill, hand over, take back."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from cachegen.engines.transformers.forward_pass import read_on
from cachegen.engines.transformers.inputs import (
    Tokens,
    check_positions,
    check_vocabulary,
    token_ids,
)
from cachegen.engines.transformers.layers import (
    fill,
    keeping_cache,
    new_cache,
    token_layers,
    tokens_needed,
    unbounded_cache,
)
from cachegen.engines.transformers.probe import support_of
from cachegen.engines.transformers.regime import Regime, regime_of
from cachegen.errors import UnsupportedCache
from cachegen.kvcache import KVCache

# Arbitrary: 512 to 8,192 do; longer than a chunk, so that recomputing one is a single pass.
_PREFILL_TOKENS = 2048


def capture(
    model: PreTrainedModel,
    tokens: Tokens,
    *,
    past: KVCache | None = None,
    prefill_tokens: int = _PREFILL_TOKENS,
    regime: Regime | None = None,
) -> KVCache:
    """Prefill tokens and keep the keys and values of each, on sliding-window layers too.

    Args:
        model: a causal language model, in eval mode.
        tokens: a context, or the part of it that follows `past`.
        past: cache of the tokens before, in sliding-window layers at least of the window; None
            where there are none.
        prefill_tokens: tokens of one forward pass; bounds the memory of long contexts. The first
            pass takes as many as a rotation needs to see how long the text is (`longrope`).
        regime: of the whole text that the past was computed for; by default it ends with `tokens`.

    Returns:
        The cache of `tokens`, without the past.

    Raises:
        UnsupportedCache: the model keeps more than keys and values of tokens, or its keys depend
            on the very length of the text.
        ValueError: no tokens, tokens out of the vocabulary, a model in training mode, or a past
            that lacks some of its own, or may be of a shorter text's frequencies.
    """
    ids, support = token_ids(tokens), support_of(model)
    if not ids:
        raise ValueError("expected at least one token, got none")
    check_vocabulary(ids, model)
    check_positions(model, ids, start=past.num_tokens if past else 0)
    start = past.num_tokens if past else 0
    _check_regime(model, start, start + len(ids), regime)
    is_complete = past is None or past.is_complete
    cache = unbounded_cache(model) if is_complete else keeping_cache(model)
    if past is not None:
        fill(cache, past, support.layers)
    stops = _stops(model, start, start + len(ids), prefill_tokens)
    done = start
    for stop in stops:
        piece = torch.tensor([ids[done - start : stop - start]], device=support.inputs)
        read_on(model, piece, cache)
        done = stop
    whole = from_cache(cache)
    return whole.slice(start, start + len(ids))


def _check_regime(model: PreTrainedModel, start: int, stop: int, regime: Regime | None) -> None:
    """Refuse to go on behind a switch of frequencies from tokens before it, unless told how."""
    passed = regime_of(model, stop).passed
    if regime is None and any(0 < start <= length for length in passed):
        raise ValueError(
            f"expected a past of a text as long as this one, {stop} tokens: beyond {passed[0]} "
            f"tokens this model's rotation is another, and one of {start} tokens may have been "
            "computed before; capture the whole text at once"
        )


def _stops(model: PreTrainedModel, start: int, stop: int, prefill_tokens: int) -> Iterator[int]:
    """Where the forward passes over the tokens from ``start`` to ``stop`` end."""
    reach = regime_of(model, stop).reach(min(start + prefill_tokens, stop))
    yield reach
    yield from range(reach + prefill_tokens, stop, prefill_tokens)
    if reach < stop:
        yield stop


def to_cache(kv: KVCache, model: PreTrainedModel) -> Cache:
    """The cache that `model.generate(tokens, past_key_values=...)` continues from.

    It is the cache the model would have made: sliding-window layers get only their window, and
    every layer's tokens are where the layer runs.

    Raises:
        UnsupportedCache: the model keeps more than keys and values of tokens.
        ValueError: the cache does not start at token 0, has other layers than the model, or
            lacks tokens that a layer needs.
    """
    layers = support_of(model).layers
    cache = new_cache(model)
    fill(cache, kv, layers)
    return cache


def from_cache(cache: Cache) -> KVCache:
    """The keys and values of a finished cache, without a copy.

    Sliding-window layers hold only their window; `capture` keeps every token.

    Raises:
        UnsupportedCache: the cache is recurrent, static, quantised or otherwise special, or
            tokens were dropped from it.
        ValueError: it is empty or holds a batch.
    """
    layers = list(token_layers(cache))
    if not layers or not all(layer.is_initialized for layer in layers):
        raise ValueError("expected a cache that has seen tokens, got an empty one")
    if layers[0].keys.shape[0] != 1:
        raise ValueError(f"expected a batch of 1, got {layers[0].keys.shape[0]}")
    num_tokens = max(layer.get_seq_length() for layer in layers)
    _refuse_dropped(layers, num_tokens)
    device = layers[0].keys.device
    return KVCache(
        tuple(layer.keys[0].detach().to(device) for layer in layers),
        tuple(layer.values[0].detach().to(device) for layer in layers),
        num_tokens,
    )


def _refuse_dropped(layers: list[DynamicLayer], num_tokens: int) -> None:
    """Which tokens are left in a pruned layer nobody knows, so that nothing could build on it."""
    for index, layer in enumerate(layers):
        held, needed = layer.keys.shape[-2], tokens_needed(layer, num_tokens)
        if held < needed or layer.get_seq_length() != num_tokens:
            kind = "sliding" if isinstance(layer, DynamicSlidingWindowLayer) else "full"
            raise UnsupportedCache(
                f"layer {index}: expected {kind} attention to hold {needed} tokens of "
                f"{num_tokens}, got {held}; a cache that tokens were dropped from (H2O, SnapKV, "
                "pyramids) cannot be stored: save it before it is pruned"
            )
