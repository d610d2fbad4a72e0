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

from cachegen.engines.transformers.forward_pass import read_on
from cachegen.engines.transformers.identity.settings import settings_digest
from cachegen.engines.transformers.inputs import placeholders
from cachegen.engines.transformers.layers import fill, new_cache, token_layers, unbounded_cache
from cachegen.engines.transformers.model import (
    adapter_wrapper,
    input_device,
    is_packed,
    plain_model,
    vocabulary_size,
)
from cachegen.engines.transformers.rounding import has_moved
from cachegen.errors import UnsupportedCache
from cachegen.forks import PerProcess
from cachegen.kvcache import KVCache

# Two texts of eight tokens that begin with the same three (docs/decisions/2026-11-28-identity.md).
# Arbitrary: 2 to 8, and twice to ten times as many, do.
_SHARED, _TOKENS = 3, 8
# Outcomes kept of one model: a few adapters and places, but not every step of a training.
_MOST_KEPT = 64
_ADAPTERS = "use an adapter that works inside the layers, such as LoRA"
_ADVICE = "use a decoder-only model whose layers all keep them; docs/architectures.md lists such"


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


_KNOWN: WeakKeyDictionary[PreTrainedModel, dict[object, _Probed]] = WeakKeyDictionary()
_PROBING = PerProcess(threading.Lock)


@dataclass(slots=True)
class _Probed:
    """A probe's outcome, and the fingerprint of the model it holds for, once that is known."""

    support: Support
    fingerprint: bytes | None


def support_of(model: PreTrainedModel, *, fingerprint: bytes | None = None) -> Support:
    """Probe a model, once as long as it stays where it is and, where that is given, what it is.

    Args:
        model: wrapped or not.
        fingerprint: the model's, to probe again after a change of its weights.

    Raises:
        ValueError: the model is in training mode.
        UnsupportedCache: keys and values of tokens are not all that it needs to go on.
    """
    plain, wrapper = plain_model(model), adapter_wrapper(model)
    check_eval(plain)
    place = (*_place(plain), id(wrapper))
    with _PROBING():
        known = _KNOWN.setdefault(plain, {})
        if fingerprint is not None and (place, fingerprint) in known:
            return known[place, fingerprint].support
        if len(known) > _MOST_KEPT:
            known.clear()
        settings = (place, settings_digest(plain))
        probed = known.get(settings)
        if probed is None or (fingerprint and probed.fingerprint not in (None, fingerprint)):
            probed = known[settings] = _Probed(_probe(plain, wrapper), fingerprint)
        if fingerprint is not None:
            probed.fingerprint = fingerprint
            known[place, fingerprint] = probed
        return probed.support


def is_probed(model: PreTrainedModel) -> bool:
    """Whether this model, as it is or was, has been found to be supported."""
    return bool(_KNOWN.get(plain_model(model)))


def check_eval(model: PreTrainedModel) -> None:
    """Refuse a model in training mode, whose dropout makes every cache another one.

    Raises:
        ValueError: some module of it is.
    """
    for name, module in plain_model(model).named_modules():
        if module.training and not is_packed(module):
            raise ValueError(
                f"expected a model in eval mode, got {name or type(model).__name__!r} in training "
                "mode, where dropout changes keys and values: call model.eval()"
            )


def _place(model: PreTrainedModel) -> tuple[object, ...]:
    """What may change where a model keeps its tokens, and in which type."""
    kinds = {(tensor.device, tensor.dtype) for tensor in model.parameters()}
    return input_device(model), frozenset(kinds)


def _probe(model: PreTrainedModel, wrapper: torch.nn.Module | None) -> Support:
    cache = unbounded_cache(model)
    texts = _two_texts(model).to(input_device(model))
    layers = _layers_of(model, texts, cache)
    support = Support(texts.device, tuple(layer.keys.device for layer in layers))
    first, second = (_row(model, layers, row) for row in (0, 1))
    if has_moved(model, first.slice(0, _SHARED), second.slice(0, _SHARED)):
        raise UnsupportedCache(
            f"{type(model).__name__}: later tokens change the keys and values of earlier ones, so "
            "those of a context do not fit into another text: expected causal attention (of an "
            "encoder with a language model head: is_decoder=True)"
        )
    if wrapper is not None:
        _check_wrapper(wrapper, model, texts, first)
    rebuilt = new_cache(model)
    fill(rebuilt, first.slice(0, _SHARED), support.layers)
    continued = _row(model, _layers_of(model, texts[:1, _SHARED:], rebuilt), 0)
    following = (kv.slice(_SHARED, _TOKENS) for kv in (first, continued))
    if has_moved(model, *following, other_shape=True):
        raise UnsupportedCache(
            f"{type(model).__name__} does not go on in the same way from the keys and values of "
            "tokens alone: it keeps recurrent or other state beside them; use a decoder with "
            "attention layers only"
        )
    return support


def _check_wrapper(
    wrapper: torch.nn.Module, model: PreTrainedModel, texts: torch.Tensor, expected: KVCache
) -> None:
    """Refuse adapters that work from outside the layers, and so depend on more than the tokens."""
    cache = unbounded_cache(model)
    try:
        with torch.no_grad():
            wrapper(input_ids=texts, past_key_values=cache, use_cache=True)
        found = _row(model, list(token_layers(cache)), 0)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise UnsupportedCache(f"{type(wrapper).__name__}: {error}; {_ADAPTERS}") from error
    if found.geometry != expected.geometry or has_moved(model, expected, found):
        raise UnsupportedCache(
            f"{type(wrapper).__name__} computes other keys and values than the model in it: its "
            f"adapter decides by the whole text (aLoRA, X-LoRA); {_ADAPTERS}"
        )


def _two_texts(model: PreTrainedModel) -> torch.Tensor:
    """Ids (2, tokens) of ordinary tokens from all over the vocabulary; the rows begin alike."""
    config, size = model.config.get_text_config(decoder=True), vocabulary_size(model)
    needed = 2 * _TOKENS - _SHARED
    spread = torch.linspace(0, size - 1, min(size, 8 * needed)).long().tolist()
    marks = (getattr(config, name, None) for name in ("pad_token_id", "bos_token_id"))
    special = {*placeholders(model), *marks}
    ordinary = [token for token in spread if token not in special] or spread
    chosen = [ordinary[index * len(ordinary) // needed] for index in range(needed)]
    return torch.tensor([chosen[:_TOKENS], chosen[:_SHARED] + chosen[_TOKENS:]])


def _layers_of(model: PreTrainedModel, ids: torch.Tensor, cache: Cache) -> list[DynamicLayer]:
    """The layers that hold tokens, after reading so many more."""
    name = type(model).__name__
    try:
        read_on(model, ids, cache)
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
    """One text's cache, on the CPU; of windows, what they hold of it."""
    try:
        return KVCache(
            tuple(layer.keys[row].cpu() for layer in layers),
            tuple(layer.values[row].cpu() for layer in layers),
            _TOKENS,
        )
    except (TypeError, ValueError) as error:
        raise UnsupportedCache(
            f"{type(model).__name__}: its layers do not hold keys and values (batch, kv_heads, "
            f"tokens, dim) of one type: {error}"
        ) from error
