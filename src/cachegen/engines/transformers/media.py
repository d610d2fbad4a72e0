"""Contexts with images, audio or video in them: prefilled with the model's inputs for these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from cachegen.engines.transformers.cache import capture, from_cache
from cachegen.engines.transformers.forward_pass import read_on
from cachegen.engines.transformers.inputs import placeholders
from cachegen.engines.transformers.layers import unbounded_cache
from cachegen.engines.transformers.model import plain_model, vocabulary_size
from cachegen.engines.transformers.probe import support_of
from cachegen.engines.transformers.regime import regime_of
from cachegen.engines.transformers.rounding import has_moved
from cachegen.errors import UnsupportedCache
from cachegen.kvcache import KVCache

# Tokens behind the last image that are changed to see whether earlier ones change. Arbitrary: 4 to
# 64 do.
_TAIL_TOKENS = 8
_OF_THE_TEXT = ("input_ids", "attention_mask", "past_key_values", "use_cache")


def check_media(
    model: PreTrainedModel,
    ids: Sequence[int],
    *,
    extra: bytes,
    inputs: Mapping[str, Any] | None = None,
    is_saved: bool = False,
) -> None:
    """Refuse placeholders without what they stand for, or without a name for it.

    Raises:
        ValueError: `extra`, or on saving `inputs`, are missing.
        UnsupportedCache: positions behind an image would depend on the image.
    """
    known = placeholders(model)
    found = known & set(ids) if known else known
    if inputs and not found:
        raise ValueError(
            f"expected tokens that stand for what `inputs` hold ({', '.join(sorted(inputs))}), "
            f"{_listed(known)}; got a text without them"
        )
    if inputs and not extra:
        raise ValueError(
            "expected `extra` with `inputs`: a digest of the image, audio or whatever it is, which "
            "the tokens do not tell apart; got none"
        )
    if not found:
        return
    if not extra:
        raise ValueError(
            f"token {min(found)} stands for an image, audio or video, and equal tokens get other "
            "keys and values with another one: expected `extra`, a digest of it, on saving and "
            "loading; got none"
        )
    if is_saved and not inputs:
        raise ValueError(
            f"token {min(found)} stands for an image, audio or video: expected `inputs`, what the "
            "model's processor made of it (pixel_values, for one); got none"
        )
    if _has_other_positions(model):
        raise UnsupportedCache(
            f"{type(plain_model(model)).__name__} numbers the positions behind an image by its "
            "size, which keys and values do not tell a model that goes on from them: expected "
            "text, or a model with one position a token"
        )


def _listed(known: frozenset[int]) -> str:
    if not known:
        return "which this model's configuration does not name"
    return "one of " + ", ".join(map(str, sorted(known)))


def _has_other_positions(model: PreTrainedModel) -> bool:
    """Whether rotations have sections for time, height and width (M-RoPE)."""
    parameters = getattr(plain_model(model).config.get_text_config(), "rope_parameters", None) or {}
    return "mrope_section" in parameters


def capture_with_media(
    model: PreTrainedModel, ids: Sequence[int], inputs: Mapping[str, Any]
) -> KVCache:
    """`capture` of a whole context whose placeholders get inputs.

    Up to the last placeholder all is read in one pass, and once more with another end, to see
    whether what comes later changes it.

    Raises:
        UnsupportedCache: it does.
    """
    seen = media_stop(model, ids)
    regime = regime_of(model, len(ids))
    stop = regime.reach(min(seen + _TAIL_TOKENS, len(ids)))
    tail = [*ids[seen:stop]] or [_other(model, ids[0])]
    begun = _read(model, [*ids[:seen], *tail], inputs, num_tokens=len(ids))
    other = _read(
        model,
        [*ids[:seen], *(_other(model, token) for token in tail)],
        inputs,
        num_tokens=len(ids),
    )
    if has_moved(plain_model(model), begun.slice(0, seen), other.slice(0, seen)):
        raise UnsupportedCache(
            f"{type(plain_model(model)).__name__}: with these inputs, later tokens change the keys "
            "and values of earlier ones, so those of a context do not fit into another text"
        )
    begun = begun.slice(0, min(begun.num_tokens, len(ids)))
    if begun.num_tokens == len(ids):
        return begun
    rest = capture(model, ids[begun.num_tokens :], past=begun, regime=regime)
    return KVCache.concat([begun, rest])


def media_stop(model: PreTrainedModel, ids: Sequence[int]) -> int:
    """Where the last placeholder ends; 0 without any."""
    known = placeholders(model)
    if not known:
        return 0
    return max((index + 1 for index, token in enumerate(ids) if token in known), default=0)


def whole_media(model: PreTrainedModel, ids: Sequence[int], num_tokens: int) -> int:
    """At most so many tokens, but no part of an image: the rest of one cannot be read alone."""
    known = placeholders(model)
    while 0 < num_tokens < len(ids) and ids[num_tokens - 1] == ids[num_tokens] in known:
        num_tokens -= 1
    return num_tokens


def _read(
    model: PreTrainedModel, ids: Sequence[int], inputs: Mapping[str, Any], *, num_tokens: int
) -> KVCache:
    device, cache = support_of(model).inputs, unbounded_cache(model)
    media = {
        name: _cut(value, len(ids), num_tokens, device)
        for name, value in inputs.items()
        if name not in _OF_THE_TEXT
    }
    read_on(model, torch.tensor([list(ids)], device=device), cache, **media)
    return from_cache(cache)


def _cut(value: Any, read: int, num_tokens: int, device: torch.device) -> Any:
    """An input on the model's device; of one that has an entry a token, those that are read."""
    if not isinstance(value, torch.Tensor):
        return value
    if value.shape == (1, num_tokens):
        missing = max(0, read - num_tokens)
        value = torch.nn.functional.pad(value[:, :read], (0, missing))
    return value.to(device)


def _other(model: PreTrainedModel, token: int) -> int:
    """An ordinary token that is another one."""
    known = placeholders(model)
    size = vocabulary_size(model)
    return next(
        found
        for step in range(1, size)
        if (found := (token + step * (size // 3 + 1)) % size) not in known and found != token
    )
