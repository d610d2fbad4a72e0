"""Whether keys and values are equal but for rounding."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from cachegen.engines.transformers.model import is_packed
from cachegen.kvcache import KVCache

# How far a token's keys or values may move, as a share of their length: between passes of one
# shape, and of two, which round otherwise in every layer anew. Random models of some layers stay
# far below; the bounds for 16 bits leave room for deep ones.
_FLOAT32 = (1e-3, 1e-2)
_16_BIT = (5e-3, 0.1)
# Activations that are quantised together, as in dynamic int8, are scaled by the largest of them,
# whichever token has it.
_QUANTISED = (0.1, 0.3)


def has_moved(
    model: PreTrainedModel, left: KVCache, right: KVCache, *, other_shape: bool = False
) -> bool:
    """Whether any token moved further than rounding explains, or is not finite.

    In a mixture of experts a token may be sent elsewhere for a rounding: there half of the tokens
    must have moved.

    Args:
        model: whose they are.
        left: of some tokens; layers may hold only the last of them.
        right: of the same tokens.
        other_shape: whether they come from passes of two shapes.
    """
    limit = _limits(model, left.dtype)[int(other_shape)]
    pick = torch.median if _routes(model) else torch.max
    planes = zip(left.planes(), right.planes(), strict=True)
    return not all(float(pick(_moved(a.double(), b.double()))) <= limit for a, b in planes)


def _limits(model: PreTrainedModel, dtype: torch.dtype) -> tuple[float, float]:
    if any(map(is_packed, model.modules())):
        return _QUANTISED
    return _FLOAT32 if dtype == torch.float32 else _16_BIT


def _routes(model: PreTrainedModel) -> bool:
    """Whether experts are chosen for every token."""
    config = model.config.get_text_config(decoder=True)
    counts = (count for name, count in vars(config).items() if "expert" in name)
    return any(isinstance(count, int) and count > 1 for count in counts)


def _moved(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """How far each of the last tokens that both planes (heads, tokens, dim) hold has moved."""
    held = min(left.shape[1], right.shape[1])
    first, second = left.shape[1] - held, right.shape[1] - held
    left, right = left[:, first:], right[:, second:]
    lengths = left.square().sum(dim=(0, 2)).sqrt().clamp_min(1e-30)
    return (left - right).square().sum(dim=(0, 2)).sqrt() / lengths
