"""The layers of a transformers cache: which hold tokens, how they are made and filled."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from cachegen.engines.transformers.model import plain_model
from cachegen.errors import UnsupportedCache
from cachegen.kvcache import KVCache

_WINDOW_MASKS = ("create_sliding_window_causal_mask", "create_chunked_causal_mask")


def new_cache(model: PreTrainedModel) -> Cache:
    """An empty cache as the model itself would make it, refused where it is not all KV."""
    config = plain_model(model).config
    if config.is_encoder_decoder:
        raise UnsupportedCache(
            f"{type(model).__name__} keeps an encoder's state beside keys and values of tokens; "
            "expected a decoder-only model"
        )
    cache = DynamicCache(config=config)
    list(token_layers(cache))
    return cache


def unbounded_cache(model: PreTrainedModel) -> Cache:
    """The model's cache with windows replaced by layers that keep everything."""
    cache = new_cache(model)
    cache.layers = [
        DynamicLayer() if isinstance(layer, DynamicSlidingWindowLayer) else layer
        for layer in cache.layers
    ]
    return cache


def keeping_cache(model: PreTrainedModel) -> Cache:
    """The model's cache, whose windows show the model what they always do and drop nothing."""
    cache = new_cache(model)
    for layer in cache.layers:
        if isinstance(layer, DynamicSlidingWindowLayer):
            layer.activate_past_recording()
    return cache


def windows_of(model: PreTrainedModel) -> tuple[int, ...]:
    """Of every layer, how many tokens a token attends to, itself included; 0 for all before it.

    A window in the settings is believed only of code that makes masks of windows: some models
    attend to everything all the same.
    """
    makes_windows = _makes_windows(model)
    return tuple(
        int(layer.sliding_window)
        if makes_windows and isinstance(layer, DynamicSlidingWindowLayer)
        else 0
        for layer in token_layers(new_cache(model))
    )


def _makes_windows(model: PreTrainedModel) -> bool:
    names = {type(module).__module__ for module in plain_model(model).modules()}
    return any(hasattr(sys.modules.get(name), maker) for name in names for maker in _WINDOW_MASKS)


def can_fill(cache: Cache, kv: KVCache) -> bool:
    """Whether every layer of an empty cache would get the tokens that it needs."""
    layers = list(token_layers(cache))
    return len(layers) == kv.num_layers and all(
        key.shape[1] >= tokens_needed(layer, kv.num_tokens)
        for layer, key in zip(layers, kv.keys, strict=True)
    )


def token_layers(cache: Cache) -> Iterator[DynamicLayer]:
    """The layers that hold tokens; those that read another layer's (KV sharing) hold none."""
    for index, layer in enumerate(cache.layers):
        kind = type(layer).__name__
        if kind == "DummyLayer":
            continue
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            raise UnsupportedCache(
                f"layer {index} is a {kind}, which keeps other state (recurrent, static, "
                "quantised or indexed) that cannot be cut into chunks: expected dynamic full or "
                "sliding-window attention layers, whose state is keys and values of tokens"
            )
        yield layer


def fill(cache: Cache, kv: KVCache, devices: Sequence[torch.device]) -> None:
    """Put tokens into an empty cache, each layer on its device.

    Raises:
        ValueError: the tokens do not start at 0, are of other layers, or some are missing.
    """
    layers = list(token_layers(cache))
    if kv.start != 0 or kv.num_layers != len(layers):
        raise ValueError(
            f"expected a cache from token 0 with {len(layers)} layers, got one from token "
            f"{kv.start} with {kv.num_layers}"
        )
    planes = zip(layers, kv.keys, kv.values, devices, strict=True)
    for index, (layer, key, value, device) in enumerate(planes):
        _fill_layer(layer, key, value, kv.num_tokens, index=index, device=device)


def _fill_layer(
    layer: DynamicLayer,
    key: torch.Tensor,
    value: torch.Tensor,
    num_tokens: int,
    *,
    index: int,
    device: torch.device,
) -> None:
    needed = tokens_needed(layer, num_tokens)
    if key.shape[1] < needed:
        raise ValueError(
            f"layer {index}: expected the last {needed} of {num_tokens} tokens, got {key.shape[1]}"
        )
    first = key.shape[1] - needed
    layer.update(key[None, :, first:].to(device), value[None, :, first:].to(device))
    if isinstance(layer, DynamicSlidingWindowLayer):
        layer.cumulative_length = num_tokens


def tokens_needed(layer: DynamicLayer, num_tokens: int) -> int:
    """How many of the last tokens a layer holds of so many."""
    if isinstance(layer, DynamicSlidingWindowLayer):
        return min(num_tokens, int(layer.sliding_window) - 1)
    return num_tokens
