"""Between KVCache and the caches of transformers: capture by prefill, hand over, take back."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from cachegen.errors import UnsupportedCache
from cachegen.kvcache import KVCache

Tokens = Sequence[int] | np.ndarray | torch.Tensor

_PREFILL_TOKENS = 2048


def token_ids(tokens: Tokens) -> tuple[int, ...]:
    """Tokens of one context as integers, from a sequence or an array (tokens,) or (1, tokens).

    Raises:
        ValueError: more than one row.
    """
    ids = torch.as_tensor(tokens, dtype=torch.int64, device="cpu")
    if ids.ndim == 2 and ids.shape[0] == 1:
        ids = ids[0]
    if ids.ndim != 1:
        raise ValueError(f"expected the tokens of one context, (tokens,), got {tuple(ids.shape)}")
    return tuple(ids.tolist())


@torch.no_grad()
def capture(
    model: PreTrainedModel,
    tokens: Tokens,
    *,
    past: KVCache | None = None,
    prefill_tokens: int = _PREFILL_TOKENS,
) -> KVCache:
    """Prefill tokens and keep the keys and values of each, on sliding-window layers too.

    Args:
        model: a causal language model, in eval mode.
        tokens: a context, or the part of it that follows `past`.
        past: complete cache of the tokens before; None where there are none.
        prefill_tokens: tokens of one forward pass; bounds the memory of long contexts.

    Returns:
        The cache of `tokens`, without the past.

    Raises:
        UnsupportedCache: the model keeps more than keys and values of tokens.
        ValueError: no tokens, or a past that lacks some of its own.
    """
    ids = torch.tensor([token_ids(tokens)], device=model.device)
    if not ids.numel():
        raise ValueError("expected at least one token, got none")
    cache = _unbounded_cache(model)
    if past is not None:
        _fill(cache, past.to(model.device))
    few_logits = {"logits_to_keep": 1} if accepts(model, "logits_to_keep") else {}
    for piece in torch.split(ids, prefill_tokens, dim=1):
        model(input_ids=piece, past_key_values=cache, use_cache=True, **few_logits)
    whole = from_cache(cache)
    return whole.slice(whole.num_tokens - ids.numel(), whole.num_tokens)


def to_cache(kv: KVCache, model: PreTrainedModel) -> Cache:
    """The cache that `model.generate(tokens, past_key_values=...)` continues from.

    It is the cache the model would have made: sliding-window layers get only their window.

    Raises:
        UnsupportedCache: the model keeps more than keys and values of tokens.
        ValueError: the cache does not start at token 0, has other layers than the model, or
            lacks tokens that a layer needs.
    """
    cache = new_cache(model)
    _fill(cache, kv.to(model.device))
    return cache


def from_cache(cache: Cache) -> KVCache:
    """The keys and values of a finished cache, without a copy.

    Sliding-window layers hold only their window; `capture` keeps every token.

    Raises:
        UnsupportedCache: the cache is recurrent, static, quantised or otherwise special.
        ValueError: it is empty or holds a batch.
    """
    layers = list(token_layers(cache))
    if not layers or not all(layer.is_initialized for layer in layers):
        raise ValueError("expected a cache that has seen tokens, got an empty one")
    if layers[0].keys.shape[0] != 1:
        raise ValueError(f"expected a batch of 1, got {layers[0].keys.shape[0]}")
    device = layers[0].keys.device
    return KVCache(
        tuple(layer.keys[0].detach().to(device) for layer in layers),
        tuple(layer.values[0].detach().to(device) for layer in layers),
        max(layer.get_seq_length() for layer in layers),
    )


def new_cache(model: PreTrainedModel) -> Cache:
    """An empty cache as the model itself would make it, refused where it is not all KV."""
    if getattr(model, "_is_stateful", False) or model.config.is_encoder_decoder:
        raise UnsupportedCache(
            f"{type(model).__name__} keeps recurrent or encoder state beside keys and values of "
            "tokens, which cannot be cut into chunks; use a decoder with attention layers only"
        )
    cache = DynamicCache(config=model.config)
    list(token_layers(cache))
    return cache


def _unbounded_cache(model: PreTrainedModel) -> Cache:
    """The model's cache with windows replaced by layers that keep everything."""
    cache = new_cache(model)
    cache.layers = [
        DynamicLayer() if isinstance(layer, DynamicSlidingWindowLayer) else layer
        for layer in cache.layers
    ]
    return cache


def token_layers(cache: Cache) -> Iterator[DynamicLayer]:
    """The layers that hold tokens; those that read another layer's (KV sharing) hold none."""
    for index, layer in enumerate(cache.layers):
        kind = type(layer).__name__
        if kind == "DummyLayer":
            continue
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            raise UnsupportedCache(
                f"layer {index} is a {kind}: expected dynamic full or sliding-window attention "
                "layers, whose state is keys and values of tokens"
            )
        yield layer


def _fill(cache: Cache, kv: KVCache) -> None:
    layers = list(token_layers(cache))
    if kv.start != 0 or kv.num_layers != len(layers):
        raise ValueError(
            f"expected a cache from token 0 with {len(layers)} layers, got one from token "
            f"{kv.start} with {kv.num_layers}"
        )
    for index, layer in enumerate(layers):
        _fill_layer(layer, kv.keys[index], kv.values[index], kv.num_tokens, index)


def _fill_layer(
    layer: DynamicLayer, key: torch.Tensor, value: torch.Tensor, num_tokens: int, index: int
) -> None:
    needed = num_tokens
    if isinstance(layer, DynamicSlidingWindowLayer):
        needed = min(num_tokens, layer.sliding_window - 1)
    if key.shape[1] < needed:
        raise ValueError(
            f"layer {index}: expected the last {needed} of {num_tokens} tokens, got {key.shape[1]}"
        )
    layer.update(key[None, :, -needed:], value[None, :, -needed:])
    if isinstance(layer, DynamicSlidingWindowLayer):
        layer.cumulative_length = num_tokens


def accepts(model: PreTrainedModel, argument: str) -> bool:
    """Whether a forward pass takes this argument; adapters are looked through."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    return argument in inspect.signature(plain.forward).parameters
