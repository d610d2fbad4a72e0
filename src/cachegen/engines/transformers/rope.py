"""Which planes of a model's cache are rotated, and how fast: asked of the model itself.

One token is run at many positions. Its keys then differ only by the rotation of the position, in
every layer: the rotation that makes them equal again is the right one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain

import torch
from transformers import PreTrainedModel

from cachegen.codec.rope import Rope, RopeMap, rotate
from cachegen.engines.transformers.layers import token_layers, unbounded_cache
from cachegen.engines.transformers.model import accepts, input_device, plain_model
from cachegen.engines.transformers.regime import is_length_dependent

# Arbitrary: 4 to 64, and 64 to 1,024, do; enough to tell fast frequencies apart, and slow ones.
_NEAR_POSITIONS = 8
_RUN_TOKENS = 256
# Arbitrary: any token of every vocabulary does.
_PROBE_TOKEN = 1
# Of a plane's energy, and of what differed before: rounding to 16 bits adds up layer by layer where
# attention has sinks, while another rotation leaves tens of percent.
_LEFT = 0.02
_LEFT_OF_SPREAD = 0.1


def rope_map(model: PreTrainedModel) -> RopeMap:
    """The rotations of a model's planes.

    Frequencies are those of the model's rotary modules; a rotation is believed only where it
    takes the position off the keys, or off the values where these are the rotated part (MLA).
    Planes that no rotation explains stay as they are, and so does everything in models whose
    frequencies depend on the length of the text (`dynamic`, `longrope`) or that cannot be asked.
    """
    model = plain_model(model)
    nothing = RopeMap.none(2 * len(list(token_layers(unbounded_cache(model)))))
    candidates = () if is_length_dependent(model) else tuple(dict.fromkeys(_candidates(model)))
    if not candidates:
        return nothing
    try:
        positions, planes = _probe(model)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # the model takes no such input: its keys stay as they are
        return nothing
    found = [_explain(plane, candidates, positions) for plane in planes]
    ropes = tuple(dict.fromkeys(rope for rope in found if rope is not None))
    return RopeMap(ropes, tuple(None if rope is None else ropes.index(rope) for rope in found))


def _candidates(model: PreTrainedModel) -> Iterator[Rope]:
    """All ways to turn by the frequencies that the model holds, either way round."""
    for name, tensor in chain(model.named_buffers(), model.named_parameters()):
        for frequencies in _frequencies(name, tensor):
            for signed in (frequencies, -frequencies):
                for interleaved in (False, True):
                    yield Rope(tuple(signed.tolist()), interleaved)


def _frequencies(name: str, tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Radians a position, if the tensor holds them or the sines, then cosines, of positions."""
    if tensor.is_meta or not tensor.is_floating_point():
        return
    if name.endswith("inv_freq"):
        yield tensor.detach().float().cpu()
    elif tensor.ndim == 2 and min(tensor.shape) > 1:
        width = tensor.shape[1] // 2
        first = tensor[0].detach().float().cpu()
        at_zero = torch.cat((torch.zeros(width), torch.ones(width)))
        if torch.equal(first, at_zero):
            table = tensor.detach().double().cpu()
            yield _unrolled(torch.atan2(table[:, :width], table[:, width:]))


def _unrolled(angles: torch.Tensor) -> torch.Tensor:
    """Radians a position from angles (positions, pairs) that lost their whole turns.

    Each doubling of the position halves what rounding of the angle leaves open.
    """
    frequencies = angles[1]
    for position in (1 << bit for bit in range(1, (len(angles) - 1).bit_length())):
        turns = ((frequencies * position - angles[position]) / math.tau).round()
        frequencies = (angles[position] + math.tau * turns) / position
    return frequencies.float()


@torch.no_grad()
def _probe(model: PreTrainedModel) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Positions, and per plane float32 (positions, heads, dim): one token, everywhere.

    The token is alone in its sequence, or, where a model numbers positions itself, repeated:
    attention over equal values gives that value.
    """
    cache = unbounded_cache(model)
    if accepts(model, "position_ids"):
        positions = _positions(model)
        ids = torch.full((len(positions), 1), _PROBE_TOKEN, device=input_device(model))
        places = {"position_ids": positions[:, None].to(input_device(model))}
    else:
        positions = torch.arange(min(_RUN_TOKENS, _max_positions(model)))
        ids = torch.full((1, len(positions)), _PROBE_TOKEN, device=input_device(model))
        places = {}
    model(input_ids=ids, past_key_values=cache, use_cache=True, **places)
    states = [state for layer in token_layers(cache) for state in (layer.keys, layer.values)]
    by_position = [state[:, :, 0] if places else state[0].transpose(0, 1) for state in states]
    return positions, [plane.float().cpu().contiguous() for plane in by_position]


def _positions(model: PreTrainedModel) -> torch.Tensor:
    """The first few positions, then doubling up to the last one the model is made for."""
    last = _max_positions(model) - 1
    doubling = [1 << bit for bit in range(last.bit_length()) if 1 << bit < last]
    return torch.tensor(sorted({*range(min(_NEAR_POSITIONS, last)), *doubling, last}))


def _max_positions(model: PreTrainedModel) -> int:
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", 4096))


def _explain(
    plane: torch.Tensor, candidates: tuple[Rope, ...], positions: torch.Tensor
) -> Rope | None:
    """The rotation that takes most of the position off, if that is nearly all."""
    fitting = [rope for rope in candidates if rope.rotated_dims <= plane.shape[-1]]
    left = [_spread(_turned_back(plane, rope, positions)) for rope in fitting]
    least = min(left, default=math.inf)
    if least > _LEFT or least >= _LEFT_OF_SPREAD * _spread(plane):
        return None
    return fitting[left.index(least)]


def _turned_back(plane: torch.Tensor, rope: Rope, positions: torch.Tensor) -> torch.Tensor:
    turned = plane.clone()
    rotate(turned, rope, positions, inverse=True)
    return turned


def _spread(plane: torch.Tensor) -> float:
    """Share of the energy that differs between positions."""
    energy = plane.square().sum().clamp_min(torch.finfo(plane.dtype).tiny)
    return float((plane - plane.mean(dim=0)).square().sum() / energy)
