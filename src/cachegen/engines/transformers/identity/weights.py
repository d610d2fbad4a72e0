"""A digest of everything that a model computes with, as it is in memory, and when it changes."""

from __future__ import annotations

import hashlib
import pickle
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel

from cachegen.cores import available_cores
from cachegen.engines.transformers.identity.adapters import Modules, bare_name
from cachegen.engines.transformers.identity.glances import glances, packed_glances
from cachegen.engines.transformers.identity.tensors import at_hand, inside, named_tensors, offloaded
from cachegen.forks import PerProcess

# Processors round the powers in rotation frequencies differently, by a few units of float32, which
# are 6 * 10^-8 of a number each; another base or scale changes them by far more.
_SAME_FREQUENCIES = 1e-6
_AS_CONFIGURED = hashlib.sha256(b"as configured").digest()
# Of a tensor in one piece, and threads that read: together 512 MiB, what hashing takes of memory
# when weights are not in the CPU's already. Arbitrary: 16 to 256 MiB, and 4 to 32, do.
_PIECE_BYTES = 64 << 20
_MOST_THREADS = 8


@dataclass(frozen=True, slots=True, eq=False)
class _Known:
    """Digests by name, and what a glance showed when they were computed."""

    seen: Mapping[str, object]
    digests: Mapping[str, bytes]


_KNOWN: WeakKeyDictionary[PreTrainedModel, _Known] = WeakKeyDictionary()
_READING = PerProcess(threading.Lock)


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
    tensors = {name: at_hand(model, name, found) for name, found in named_tensors(modules)}
    seen = {**glances(tensors), **packed_glances(modules)}
    with _READING():
        known = _KNOWN.get(model)
        if fresh or known is None or known.seen != seen:
            reused = _Known({}, {}) if fresh or known is None else known
            known = _Known(seen, _digests(model, modules, tensors, seen, reused))
            _KNOWN[model] = known
    bare, whole = bare_name(modules), hashlib.sha256()
    for name, digest in sorted(
        (bare(name) or "", digest) for name, digest in known.digests.items()
    ):
        if name:
            whole.update(name.encode() + b"\0" + digest)
    return whole.digest()


def _digests(
    model: PreTrainedModel,
    modules: Modules,
    tensors: Mapping[str, torch.Tensor],
    seen: Mapping[str, object],
    known: _Known,
) -> dict[str, bytes]:
    """By name; those of tensors at which a glance shows no change are known."""

    configured = _configured(modules)

    def digest(name: str) -> bytes:
        if name in known.digests and known.seen.get(name) == seen[name]:
            return known.digests[name]
        tensor = tensors[name]
        if tensor.device.type == "meta":
            values, key = offloaded(model, name)
            tensor = values[key]
        if name in configured and _is_as(tensor, configured[name]):
            return _AS_CONFIGURED
        return _digest_of(tensor)

    first = {id(tensor): name for name, tensor in reversed(list(tensors.items()))}  # of tied ones
    with ThreadPoolExecutor(min(available_cores(), _MOST_THREADS)) as pool:
        read = dict(zip(first, pool.map(digest, first.values()), strict=True))
    found = {name: read[id(tensor)] for name, tensor in tensors.items()}
    return {**_packed(model, modules), **found}


def _configured(modules: Modules) -> dict[str, torch.Tensor]:
    """Rotation frequencies as this machine computes them from the configuration."""
    found = {}
    for name, module in modules.items():
        held = [key for key, _ in module.named_buffers(recurse=False)]
        if any(key.endswith("inv_freq") for key in held) and not list(module.parameters()):
            try:
                with torch.device("cpu"):
                    made = type(module)(module.config)
            except Exception:  # not made of a configuration alone: its bytes count
                continue
            for key, tensor in made.named_buffers(recurse=False):
                found[inside(name, key)] = tensor
    return found


def _is_as(tensor: torch.Tensor, made: torch.Tensor) -> bool:
    if (tensor.dtype, tensor.shape) != (made.dtype, made.shape):
        return False
    return torch.allclose(tensor.cpu(), made.cpu(), rtol=_SAME_FREQUENCIES, atol=0)


def _packed(model: PreTrainedModel, modules: Modules) -> dict[str, bytes]:
    """What modules save beside parameters and buffers: packed integers, scales, other state."""
    plain = {name for name, _ in named_tensors(modules)}
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
        yield f"{value.dtype} {tuple(value.shape)}".encode()
        flat = value.detach().reshape(-1)
        length = _PIECE_BYTES // value.element_size()
        for start in range(0, len(flat), length):
            yield flat[start : start + length].cpu().view(torch.uint8).numpy()


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
