"""Which planes of a model's cache are rotated, and how fast: asked of the model itself.

One token is run alone at many positions. Its keys then differ only by the rotation of the
position, in every layer: the rotation that makes them equal again is the right one.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from transformers import PreTrainedModel

from cachegen.codec.rope import Rope, RopeMap, rotate
from cachegen.engines.hf_cache import accepts, new_cache, token_layers

_LENGTH_DEPENDENT = ("dynamic", "longrope")
_NEAR_POSITIONS = 8
_PROBE_TOKEN = 1
_TOLERANCE = 1e-3


def rope_map(model: PreTrainedModel) -> RopeMap:
    """The rotations of a model's planes.

    Frequencies are those of the model's rotary modules; a rotation is believed only where it
    takes the position off the keys, or off the values where these are the rotated part (MLA).
    Planes that no rotation explains stay as they are, and so does everything in models whose
    frequencies depend on the length of the text (`dynamic`, `longrope`).
    """
    if _length_dependent(model) or not accepts(model, "position_ids"):
        return RopeMap.none(2 * len(list(token_layers(new_cache(model)))))
    positions, candidates = _positions(model), tuple(_candidates(model))
    found = [_explain(plane, candidates, positions) for plane in _probe(model, positions)]
    ropes = tuple(dict.fromkeys(rope for rope in found if rope is not None))
    return RopeMap(ropes, tuple(None if rope is None else ropes.index(rope) for rope in found))


def _length_dependent(model: PreTrainedModel) -> bool:
    parameters = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    nested = [entry for entry in parameters.values() if isinstance(entry, dict)]
    return any(entry.get("rope_type") in _LENGTH_DEPENDENT for entry in nested or [parameters])


def _positions(model: PreTrainedModel) -> torch.Tensor:
    """The first few positions, then doubling up to the last one the model is made for."""
    last = int(getattr(model.config.get_text_config(), "max_position_embeddings", 4096)) - 1
    doubling = [1 << bit for bit in range(last.bit_length()) if 1 << bit < last]
    return torch.tensor(sorted({*range(min(_NEAR_POSITIONS, last)), *doubling, last}))


@torch.no_grad()
def _probe(model: PreTrainedModel, positions: torch.Tensor) -> Iterator[torch.Tensor]:
    """Per plane float32 (positions, heads, dim): one token, alone in its sequence, everywhere."""
    ids = torch.full((len(positions), 1), _PROBE_TOKEN, device=model.device)
    cache = new_cache(model)
    places = positions[:, None].to(model.device)
    model(input_ids=ids, position_ids=places, past_key_values=cache, use_cache=True)
    for layer in token_layers(cache):
        yield layer.keys[:, :, 0].float().cpu()
        yield layer.values[:, :, 0].float().cpu()


def _candidates(model: PreTrainedModel) -> Iterator[Rope]:
    for name, buffer in model.named_buffers():
        if name.endswith("inv_freq"):
            frequencies = tuple(buffer.float().tolist())
            yield Rope(frequencies, interleaved=False)
            yield Rope(frequencies, interleaved=True)


def _explain(
    plane: torch.Tensor, candidates: tuple[Rope, ...], positions: torch.Tensor
) -> Rope | None:
    if _position_free(plane):
        return None
    for rope in candidates:
        if rope.rotated_dims <= plane.shape[-1]:
            turned_back = plane.clone()
            rotate(turned_back, rope, positions, inverse=True)
            if _position_free(turned_back):
                return rope
    return None


def _position_free(plane: torch.Tensor) -> bool:
    """Whether the rows are equal but for rounding of the model's 16-bit arithmetic."""
    return bool((plane - plane.mean(dim=0)).square().sum() <= _TOLERANCE * plane.square().sum())
