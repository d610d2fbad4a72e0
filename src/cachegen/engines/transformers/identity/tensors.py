"""What a model computes with, by name: parameters and buffers, wherever they are kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from transformers import PreTrainedModel

from cachegen.engines.transformers.identity.adapters import Modules
from cachegen.engines.transformers.model import hooks
from cachegen.errors import UnsupportedCache

# Tensors that are neither parameters nor buffers, and that a forward pass sets.
_CHANGING = ("inv_freq", "max_seq_len_cached", "rope_deltas")


def inside(module: str, name: str) -> str:
    """The full name of something in a module; the model itself has none."""
    return f"{module}.{name}" if module else name


def named_tensors(modules: Modules) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters, buffers and other tensors of modules, tied ones under each of their names."""
    for name, module in modules.items():
        rewritten = dict(_rewritten(module))
        for key, tensor in chain(module._parameters.items(), module._buffers.items()):
            if tensor is not None:
                yield inside(name, key), rewritten.get(key, tensor)
        for key, value in vars(module).items():
            if isinstance(value, torch.Tensor) and not key.endswith(_CHANGING):
                yield inside(name, key), value


def _rewritten(module: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Frequencies that a forward pass has set by the length of its text, and what from."""
    kinds = getattr(module, "rope_type", None)
    for layer, kind in kinds.items() if isinstance(kinds, dict) else [("", kinds)]:
        prefix = f"{layer}_" if layer else ""
        if kind == "longrope" or ("dynamic" in str(kind) and _has_grown(module, prefix)):
            original = getattr(module, f"{prefix}original_inv_freq", None)
            if original is not None:
                yield f"{prefix}inv_freq", original


def _has_grown(module: Any, prefix: str) -> bool:
    original = getattr(module, "original_max_seq_len", None)
    return bool(getattr(module, f"{prefix}max_seq_len_cached", original) != original)


def at_hand(model: PreTrainedModel, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor, or what accelerate keeps of it in memory if it was offloaded."""
    if tensor.device.type != "meta":
        return tensor
    values, key = offloaded(model, name)
    whole = getattr(values, "dataset", values)
    in_memory = getattr(whole, "state_dict", whole)
    full = f"{getattr(values, 'prefix', '')}{key}"
    return in_memory.get(full, tensor)


def offloaded(model: PreTrainedModel, name: str) -> tuple[Mapping[str, torch.Tensor], str]:
    """Where accelerate has put a tensor, and its name there."""
    parts = name.split(".")
    for last in range(len(parts) - 1, -1, -1):
        for hook in hooks(model.get_submodule(".".join(parts[:last]))):
            if getattr(hook, "weights_map", None) is not None:
                return hook.weights_map, ".".join(parts[last:])
    raise UnsupportedCache(
        f"{name} is on the meta device and no hook says where its values are: load the model's "
        "weights first"
    )
