"""Whether a model's cache is keys and values of tokens, asked of the model with a few tokens.

A pass over two short texts that begin alike shows where each layer keeps its tokens and whether
later tokens change earlier ones; a second pass, on top of a cache rebuilt from a part of the first,
shows whether nothing else is needed to go on.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from cachegen.engines.hf_inputs import placeholders
from cachegen.engines.hf_layers import fill, new_cache, token_layers, unbounded_cache
from cachegen.engines.hf_model import (
    accepts,
    autocast_types,
    input_device,
    plain_model,
    vocabulary_size,
)
from cachegen.errors import UnsupportedCache
from cachegen.forks import PerProcess
from cachegen.kvcache import KVCache

_SHARED, _TOKENS = 3, 8
_ADVICE = "use a decoder-only model whose layers all keep them; docs/architectures.md lists such"
# How far a token's keys or values may move, as a share of their length, where nothing should move
# them: by rounding, of a pass of the same shape. Activations that are quantised together, as in
# dynamic int8, are scaled by the largest of them, whichever token has it.
_ROUNDING = 1e-3
_ROUNDING_16_BIT = 5e-3
_ROUNDING_QUANTISED = 0.1
# A pass of another shape rounds otherwise, in every layer anew; but never by a third of a token.
_OTHER_SHAPE = 10.0
_MOST = 0.3


@dataclass(frozen=True, slots=True)
class Support:
    """Where a supported model takes and keeps tokens.

    Attributes:
        inputs: the device of token ids.
        layers: the device of every layer that holds tokens.
    """

    inputs: torch.device
    layers: tuple[torch.device, ...]

    @property
    def device(self) -> torch.device:
        """Where caches of the model are put together: with its first layer."""
        return self.layers[0]


_KNOWN: WeakKeyDictionary[PreTrainedModel, dict[object, Support]] = WeakKeyDictionary()
_PROBING = PerProcess(threading.Lock)


def support_of(model: PreTrainedModel) -> Support:
    """Probe a model, once as long as it stays where it is.

    Raises:
        ValueError: the model is in training mode.
        UnsupportedCache: keys and values of tokens are not all that it needs to go on.
    """
    model = plain_model(model)
    check_eval(model)
    place = _place(model)
    with _PROBING():
        known = _KNOWN.setdefault(model, {})
        if place not in known:
            known[place] = _probe(model)
        return known[place]


def check_eval(model: PreTrainedModel) -> None:
    """Refuse a model in training mode, whose dropout makes every cache another one.

    Raises:
        ValueError: some module of it is.
    """
    for name, module in plain_model(model).named_modules():
        if module.training and not _is_packed(module):
            raise ValueError(
                f"expected a model in eval mode, got {name or type(model).__name__!r} in training "
                "mode, where dropout changes keys and values: call model.eval()"
            )


def _place(model: PreTrainedModel) -> object:
    """What may change where a model keeps its tokens, or in which type."""
    kinds = {(tensor.device, tensor.dtype) for tensor in model.parameters()}
    return input_device(model), frozenset(kinds), str(autocast_types(model))


@torch.no_grad()
def _probe(model: PreTrainedModel) -> Support:
    cache = unbounded_cache(model)
    texts = _two_texts(model).to(input_device(model))
    layers = _layers_of(model, texts, cache)
    support = Support(texts.device, tuple(layer.keys.device for layer in layers))
    first, second = (_row(model, layers, row) for row in (0, 1))
    rounding = rounding_of(model, first.dtype)
    if moved(first.slice(0, _SHARED), second.slice(0, _SHARED)) > rounding:
        raise UnsupportedCache(
            f"{type(model).__name__}: later tokens change the keys and values of earlier ones, so "
            "those of a context do not fit into another text: expected causal attention (of an "
            "encoder with a language model head: is_decoder=True)"
        )
    rebuilt = new_cache(model)
    fill(rebuilt, first.slice(0, _SHARED), support.layers)
    continued = _row(model, _layers_of(model, texts[:1, _SHARED:], rebuilt), 0)
    following = (kv.slice(_SHARED, _TOKENS) for kv in (first, continued))
    if moved(*following) > min(rounding * _OTHER_SHAPE, _MOST):
        raise UnsupportedCache(
            f"{type(model).__name__} does not go on in the same way from the keys and values of "
            "tokens alone: it keeps recurrent or other state beside them; use a decoder with "
            "attention layers only"
        )
    return support


def _two_texts(model: PreTrainedModel) -> torch.Tensor:
    """Ids (2, tokens) of ordinary tokens from all over the vocabulary; the rows begin alike."""
    config, size = model.config.get_text_config(decoder=True), vocabulary_size(model)
    needed = 2 * _TOKENS - _SHARED
    spread = torch.linspace(0, size - 1, min(size, 8 * needed)).long().tolist()
    marks = (getattr(config, name, None) for name in ("pad_token_id", "bos_token_id"))
    special = {*placeholders(model), *marks}
    ordinary = [token for token in spread if token not in special]
    chosen = [ordinary[index * len(ordinary) // needed] for index in range(needed)]
    return torch.tensor([chosen[:_TOKENS], chosen[:_SHARED] + chosen[_TOKENS:]])


def _layers_of(model: PreTrainedModel, ids: torch.Tensor, cache: Cache) -> list[DynamicLayer]:
    """The layers that hold tokens, after reading so many more."""
    name = type(model).__name__
    few_logits = {"logits_to_keep": 1} if accepts(model, "logits_to_keep") else {}
    try:
        model(input_ids=ids, past_key_values=cache, use_cache=True, **few_logits)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise UnsupportedCache(
            f"{name} cannot read {ids.shape[1]} tokens on top of a cache of keys and values of "
            f"tokens ({type(error).__name__}: {error}); {_ADVICE}"
        ) from error
    layers = list(token_layers(cache))
    empty = [index for index, layer in enumerate(layers) if not layer.is_initialized]
    if not layers or len(empty) == len(layers):
        raise UnsupportedCache(
            f"{name} keeps no keys and values of tokens in transformers' DynamicCache (it computes "
            f"every token anew, or has a cache of its own): nothing of it can be stored; {_ADVICE}"
        )
    if empty:
        raise UnsupportedCache(
            f"{name}: layers {empty} hold no keys and values of tokens: they attend to something "
            f"else (an image, an encoder); {_ADVICE}"
        )
    return layers


def _row(model: PreTrainedModel, layers: Sequence[DynamicLayer], row: int) -> KVCache:
    """One text's cache, on the CPU."""
    try:
        return KVCache.from_layers(
            [(layer.keys[row].cpu(), layer.values[row].cpu()) for layer in layers]
        )
    except (TypeError, ValueError) as error:
        raise UnsupportedCache(
            f"{type(model).__name__}: its layers do not hold keys and values (batch, kv_heads, "
            f"tokens, dim) of one type: {error}"
        ) from error


def rounding_of(model: PreTrainedModel, dtype: torch.dtype) -> float:
    """What `moved` may find between passes of one shape where nothing moved."""
    if getattr(model, "is_quantized", False) or any(map(_is_packed, model.modules())):
        return _ROUNDING_QUANTISED
    return _ROUNDING if dtype == torch.float32 else _ROUNDING_16_BIT


def _is_packed(module: torch.nn.Module) -> bool:
    """Whether it is one of PyTorch's quantised layers, made for inference only."""
    return type(module).__module__.startswith("torch.ao.")


def moved(left: KVCache, right: KVCache) -> float:
    """By how much of its length the median token moved, in the plane where it moved most.

    The median, since a mixture of experts may send a token elsewhere for a rounding.
    """
    return max(
        float(_moved_rows(a.double(), b.double()).median())
        for a, b in zip(left.planes(), right.planes(), strict=True)
    )


def _moved_rows(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Of the last tokens that both planes (heads, tokens, dim) hold."""
    held = min(left.shape[1], right.shape[1])
    left, right = left[:, -held:], right[:, -held:]
    lengths = left.square().sum(dim=(0, 2)).sqrt().clamp_min(1e-30)
    return (left - right).square().sum(dim=(0, 2)).sqrt() / lengths
