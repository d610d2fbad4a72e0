"""What the cache of a model is made of, in a few words."""

from __future__ import annotations

from transformers import DynamicCache, PreTrainedModel

from cachegen.codec.rope import Rope
from cachegen.engines.transformers.cache import capture
from cachegen.engines.transformers.rope import rope_map

_WORDS = {
    "DynamicLayer": "full",
    "DynamicSlidingWindowLayer": "window",
    "DynamicIndexedLayer": "indexed",
    "DummyLayer": "shared",
    "LinearAttentionLayer": "recurrent",
    "LinearAttentionAndFullAttentionLayer": "recurrent and full",
    "LinearAttentionAndSlidingWindowAttentionLayer": "recurrent and window",
}


def layers(model: PreTrainedModel) -> str:
    """The kinds of its layers, each with how many there are."""
    try:
        found = [type(layer).__name__ for layer in DynamicCache(config=model.config).layers]
    except Exception:
        return "unknown"
    words = [_WORDS.get(name, name) for name in found]
    return ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words)) or "dynamic"


def planes(model: PreTrainedModel) -> str:
    """Heads and dimensions of its keys, and of its values where these have others."""
    kv = capture(model, [3])
    shapes = [f"{plane.shape[0]} x {plane.shape[2]}" for plane in kv.planes()]
    keys, values = (", ".join(dict.fromkeys(shapes[first::2])) for first in (0, 1))
    return keys if keys == values else f"{keys}; {values}"


def rotation(model: PreTrainedModel) -> str:
    """How its planes turn with the position."""
    ropes = rope_map(model)
    if not ropes.ropes:
        return "none found" if _has_rotary_modules(model) else "none"
    planes = {index % 2 for index, rope in enumerate(ropes.of_plane) if rope is not None}
    parts = "keys" if planes == {0} else "values" if planes == {1} else "keys and values"
    turned = sum(rope is not None for rope in ropes.of_plane)
    kinds = ", ".join(dict.fromkeys(map(_rope_words, ropes.ropes)))
    return f"{parts} of {turned} layers: {kinds}"


def _rope_words(rope: Rope) -> str:
    return f"{rope.rotated_dims} dims, {'pairs' if rope.interleaved else 'halves'}"


def _has_rotary_modules(model: PreTrainedModel) -> bool:
    names = [type(module).__name__.lower() for module in model.modules()]
    return any("rotary" in name or "rope" in name for name in names) or any(
        name.endswith("inv_freq") for name, _ in model.named_buffers()
    )
