"""What a glance at a model's tensors shows of a change, without reading them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from itertools import accumulate, pairwise

import torch
from torch.utils.weak import WeakIdRef
from xxhash import xxh3_128_digest

from cachegen.engines.transformers.identity.adapters import Modules

# Places of each tensor that are looked at in every call: enough for any change of a 256th of it,
# for about 10 us a tensor on a CPU (benchmarks/identity.py).
_LOOKS = 512
# Tensors of at most so many bytes are looked at whole (docs/decisions/2026-11-28-identity.md).
# Arbitrary: 8 to 256 KiB do.
_SMALL_BYTES = 64 << 10
# Modules whose weights are all parameters and buffers.
_UNPACKED = ("torch.nn.", "transformers.")
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def glances(tensors: Mapping[str, torch.Tensor]) -> dict[str, object]:
    """What a look at tensors shows of a change: others in their places, their counted writes, and
    some of their values, for writes that PyTorch does not count."""
    by_device: dict[torch.device, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        by_device.setdefault(tensor.device, {})[name] = tensor
    seen: dict[str, object] = {}
    for device, found in by_device.items():
        looks = [] if device.type == "meta" else [_look(tensor) for tensor in found.values()]
        values = torch.cat(looks).cpu().numpy().tobytes() if looks else b""
        ends = [0, *accumulate(map(len, looks))] if looks else [0] * (len(found) + 1)
        for (name, tensor), (first, stop) in zip(found.items(), pairwise(ends), strict=True):
            seen[name] = (_writes(tensor), xxh3_128_digest(values[first:stop]))
    return seen


def packed_glances(modules: Modules) -> dict[str, object]:
    """Which packed weights there are, by the modules that hold them."""
    return {
        f"{name}!": (type(module).__name__, id(value))
        for name, module in modules.items()
        if not type(module).__module__.startswith(_UNPACKED)
        for value in vars(module).values()
        if isinstance(value, torch.ScriptObject)
    }


def _writes(tensor: torch.Tensor) -> tuple[object, ...]:
    """Which tensor it is, where, and how often it was written to as far as that is counted."""
    counted = 0 if tensor.is_inference() else tensor._version
    try:
        place = tensor.data_ptr()
    except RuntimeError:  # a tensor made of others
        place = 0
    return tensor.dtype, tensor.shape, WeakIdRef(tensor), place, counted


def _look(tensor: torch.Tensor) -> torch.Tensor:
    """Some of a tensor's values as bytes, from all over it."""
    inner = getattr(tensor, "__tensor_flatten__", None)
    if inner is not None:
        return torch.cat([_look(getattr(tensor, name)) for name in inner()[0]])
    numbers = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    values = numbers.detach().view(_INTEGERS[numbers.element_size()])
    if values.numel() * values.element_size() <= _SMALL_BYTES:
        return values.reshape(-1).view(torch.uint8)
    places = _places(values.numel(), values.device)
    if values.is_contiguous():
        return values.view(-1).take(places).view(torch.uint8)
    return values[torch.unravel_index(places, values.shape)].view(torch.uint8)


@functools.lru_cache(maxsize=256)
def _places(size: int, device: torch.device) -> torch.Tensor:
    """One place in each of 512 equal parts of a tensor, drawn by a fixed seed; all if few."""
    if size <= _LOOKS:
        return torch.arange(size, device=device)
    with torch.device("cpu"):
        drawn = torch.rand(_LOOKS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        places = ((torch.arange(_LOOKS) + drawn) * size / _LOOKS).long().clamp_max(size - 1)
    return places.to(device)
