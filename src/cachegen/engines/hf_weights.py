"""A digest of everything that a model computes with, as it is in memory, and when it changes."""

from __future__ import annotations

import functools
import hashlib
import pickle
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import PreTrainedModel

from cachegen.cores import available_cores
from cachegen.engines.hf_adapters import Modules, bare_name
from cachegen.engines.hf_model import hooks
from cachegen.errors import UnsupportedCache

# Looked at in each tensor at every call: enough for any change of a 256th of it, for about 10 us
# a tensor on a CPU.
_LOOKS = 512
# Processors round the powers in rotation frequencies differently, by a few units of float32.
_SAME_FREQUENCIES = 1e-6
_AS_CONFIGURED = hashlib.sha256(b"as configured").digest()
# Modules whose weights are all parameters and buffers.
_UNPACKED = ("torch.nn.", "transformers.")
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, slots=True, eq=False)
class _Known:
    """Digests by name, and what a glance showed when they were computed."""

    glances: Mapping[str, object]
    digests: Mapping[str, bytes]


_KNOWN: WeakKeyDictionary[nn.Module, _Known] = WeakKeyDictionary()


def weights_digest(model: PreTrainedModel, modules: Modules, *, fresh: bool = False) -> bytes:
    """SHA-256 over name, type, shape and every byte of a model's parameters, buffers and packed
    weights, offloaded ones too. What was not written to or replaced since is not read again.

    Args:
        model: behind no wrapper.
        modules: of the model, by name.
        fresh: read everything.

    Raises:
        UnsupportedCache: weights that are nowhere.
    """
    known = _Known({}, {}) if fresh else _KNOWN.get(model, _Known({}, {}))
    tensors = {name: _at_hand(model, name, found) for name, found in _tensors(modules)}
    glances = {**_glances(tensors), **_packed_glance(modules)}
    if known.glances != glances:
        known = _Known(glances, _digests(model, modules, tensors, glances, known))
        _KNOWN[model] = known
    bare, whole = bare_name(modules), hashlib.sha256()
    for name, digest in sorted(
        (bare(name) or "", digest) for name, digest in known.digests.items()
    ):
        if name:
            whole.update(name.replace("_orig_mod.", "").encode() + b"\0" + digest)
    return whole.digest()


def _tensors(modules: Modules) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers that decide something, tied ones under each of their names."""
    for name, module in modules.items():
        rewritten = dict(_rewritten(module))
        for key, tensor in chain(module._parameters.items(), module._buffers.items()):
            if tensor is not None:
                yield f"{name}.{key}".lstrip("."), rewritten.get(key, tensor)


def _rewritten(module: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Frequencies that a forward pass has set by the length of its text, and what from."""
    kinds = getattr(module, "rope_type", None)
    for layer, kind in kinds.items() if isinstance(kinds, dict) else [("", kinds)]:
        prefix = f"{layer}_" if layer else ""
        if kind == "longrope" or ("dynamic" in str(kind) and _has_grown(module, prefix)):
            yield f"{prefix}inv_freq", getattr(module, f"{prefix}original_inv_freq")


def _has_grown(module: Any, prefix: str) -> bool:
    original = module.original_max_seq_len
    return bool(getattr(module, f"{prefix}max_seq_len_cached", original) != original)


def _at_hand(model: PreTrainedModel, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor, or what accelerate keeps of it in memory if it was offloaded."""
    if tensor.device.type != "meta":
        return tensor
    values, key = _offloaded(model, name)
    whole = getattr(values, "dataset", values)
    in_memory = getattr(whole, "state_dict", whole)
    full = f"{getattr(values, 'prefix', '')}{key}"
    return in_memory.get(full, tensor)


def _offloaded(model: PreTrainedModel, name: str) -> tuple[Mapping[str, torch.Tensor], str]:
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


def _digests(
    model: PreTrainedModel,
    modules: Modules,
    tensors: Mapping[str, torch.Tensor],
    glances: Mapping[str, object],
    known: _Known,
) -> dict[str, bytes]:
    """By name; those of tensors at which a glance shows no change are known."""

    configured = _configured(modules)

    def digest(name: str) -> bytes:
        if name in known.digests and known.glances.get(name) == glances[name]:
            return known.digests[name]
        tensor = tensors[name]
        if tensor.device.type == "meta":
            values, key = _offloaded(model, name)
            tensor = values[key]
        if name in configured and _is_as(tensor, configured[name]):
            return _AS_CONFIGURED
        return _digest_of(tensor)

    with ThreadPoolExecutor(available_cores()) as pool:
        found = dict(zip(tensors, pool.map(digest, tensors), strict=True))
    return {**_packed(model, modules), **found}


def _configured(modules: Modules) -> dict[str, torch.Tensor]:
    """Rotation frequencies as this machine computes them from the configuration."""
    found = {}
    for name, module in modules.items():
        held = [key for key, _ in module.named_buffers(recurse=False)]
        if any(key.endswith("inv_freq") for key in held) and not list(module.parameters()):
            try:
                made = type(module)(module.config)
            except Exception:  # not made of a configuration alone: its bytes count
                continue
            for key, tensor in made.named_buffers(recurse=False):
                found[f"{name}.{key}".lstrip(".")] = tensor
    return found


def _is_as(tensor: torch.Tensor, made: torch.Tensor) -> bool:
    if (tensor.dtype, tensor.shape) != (made.dtype, made.shape):
        return False
    return torch.allclose(tensor.cpu(), made.cpu(), rtol=_SAME_FREQUENCIES, atol=0)


def _packed(model: PreTrainedModel, modules: Modules) -> dict[str, bytes]:
    """What modules save beside parameters and buffers: packed integers, scales, other state."""
    plain = {name for name, _ in _tensors(modules)}
    saved = model.state_dict(keep_vars=True)
    return {name: _digest_of(value) for name, value in saved.items() if name not in plain}


def _digest_of(value: Any) -> bytes:
    """SHA-256 of a tensor or of whatever else a module keeps."""
    digest = hashlib.sha256()
    for part in _leaves(value):
        digest.update(part if isinstance(part, bytes) else memoryview(part))
    return digest.digest()


def _leaves(value: Any) -> Iterator[Any]:
    """Bytes, or arrays of bytes, that say the same only of equal values."""
    if isinstance(value, list | tuple):
        yield f"{len(value)} values".encode()
        for item in value:
            yield from _leaves(item)
    elif not isinstance(value, torch.Tensor):
        yield repr(value).encode() if value is None or _is_plain(value) else pickle.dumps(value)
    elif value.is_quantized:
        yield f"{value.qscheme()}".encode()
        yield from _leaves([value.int_repr(), *_scales(value)])
    elif hasattr(value, "__tensor_flatten__"):
        names, context = value.__tensor_flatten__()
        yield repr(context).encode()
        yield from _leaves([getattr(value, name) for name in names])
    else:
        local = value.detach().cpu().contiguous()
        yield f"{local.dtype} {tuple(local.shape)}".encode()
        yield local.reshape(-1).view(torch.uint8).numpy()


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | bytes | int | float | torch.dtype)


def _scales(value: torch.Tensor) -> Sequence[Any]:
    if value.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return [value.q_scale(), value.q_zero_point()]
    return [
        value.q_per_channel_scales(),
        value.q_per_channel_zero_points(),
        value.q_per_channel_axis(),
    ]


def _glances(tensors: Mapping[str, torch.Tensor]) -> dict[str, object]:
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
            seen[name] = (_writes(tensor), values[first:stop])
    return seen


def _packed_glance(modules: Modules) -> dict[str, object]:
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
    return tensor.dtype, tensor.shape, id(tensor), place, counted


def _look(tensor: torch.Tensor) -> torch.Tensor:
    """Some of a tensor's values as bytes, from all over it."""
    inner = getattr(tensor, "__tensor_flatten__", None)
    if inner is not None:
        return torch.cat([_look(getattr(tensor, name)) for name in inner()[0]])
    places = _places(tensor.numel(), tensor.device)
    values = tensor.detach().view(_INTEGERS[tensor.element_size()])
    if values.is_contiguous():
        return values.view(-1).take(places).view(torch.uint8)
    return values[torch.unravel_index(places, values.shape)].view(torch.uint8)


@functools.lru_cache(maxsize=256)
def _places(size: int, device: torch.device) -> torch.Tensor:
    """One place in each of 512 equal parts of a tensor, drawn by a fixed seed; all if few."""
    if size <= _LOOKS:
        return torch.arange(size, device=device)
    drawn = torch.rand(_LOOKS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    places = ((torch.arange(_LOOKS) + drawn) * size / _LOOKS).long().clamp_max(size - 1)
    return places.to(device)
