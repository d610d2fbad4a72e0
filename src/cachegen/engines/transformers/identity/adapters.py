"""Adapters that PEFT put into a model's layers: which of them count, how much, and which do not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedModel

Modules = Mapping[str, nn.Module]
# Settings of how an adapter came to be, which its weights and its layers' state have outlived.
_IRRELEVANT = frozenset(
    {
        "auto_mapping", "base_model_name_or_path", "inference_mode", "init_lora_weights",
        "init_weights", "lora_dropout", "module_dropout", "peft_version", "revision", "task_type",
    }
)  # fmt: skip

_WRAPPED = ("base_layer", "original_module")
_COMPILED = "_orig_mod"


def adapters(model: PreTrainedModel, modules: Modules) -> dict[str, Any]:
    """What decides how adapters change a model: of those that take part, settings, and per layer
    which are switched on, merged, and how much. Their names do not matter.

    Nothing where none takes part; such a model computes what the bare one does.
    """
    parts = adapter_layers(modules)
    used = tuple(dict.fromkeys(name for part in parts.values() for name in _used(part)))
    if not used:
        return {}
    settings = getattr(model, "peft_config", {})
    return {
        "settings": [_settings(settings[name]) for name in used if name in settings],
        "layers": {name: _state(part, used) for name, part in parts.items() if _used(part)},
    }


def bare_name(modules: Modules) -> Callable[[str], str | None]:
    """Names of modules and tensors as the bare, uncompiled model has them.

    Those of adapters get their place in a layer's order; None for adapters that take no part.
    """
    parts = {name: (_used(part), _known(part)) for name, part in adapter_layers(modules).items()}
    if not parts:
        return lambda name: name.replace(f".{_COMPILED}", "")

    def bare(name: str) -> str | None:
        pieces, kept = name.split("."), []
        used: tuple[str, ...] = ()
        known: frozenset[str] = frozenset()
        for index, piece in enumerate(pieces):
            part = parts.get(".".join(pieces[:index]))
            if piece == _COMPILED:
                continue
            if part is not None and piece in _WRAPPED:
                used, known = (), frozenset()
                continue
            used, known = part or (used, known)
            if (part is not None and not used) or piece in known.difference(used):
                return None
            kept.append(str(used.index(piece)) if piece in known else piece)
        return ".".join(kept)

    return bare


def adapter_layers(modules: Modules) -> dict[str, nn.Module]:
    """Layers with adapters, and modules that were trained as a whole."""
    layers = getattr(sys.modules.get("peft.tuners.tuners_utils"), "BaseTunerLayer", ())
    wholes = getattr(sys.modules.get("peft.utils.other"), "AuxiliaryTrainingWrapper", ())
    return {n: module for n, module in modules.items() if isinstance(module, (layers, wholes))}


def outside(wrapper: nn.Module, modules: Modules) -> dict[str, nn.Module]:
    """Modules with weights that adapters which take part keep beside the model, not in it."""
    if not any(map(_used, adapter_layers(modules).values())):
        return {}
    inside = set(modules.values())
    return {
        f"adapters.{name}": module
        for name, module in wrapper.named_modules()
        if module not in inside and {**module._parameters, **module._buffers}
    }


def _used(part: Any) -> tuple[str, ...]:
    """The adapters that take part in a layer: merged ones, then active ones, in their order."""
    active = () if part.disable_adapters else part.active_adapters
    known, named = _known(part), (*getattr(part, "merged_adapters", ()), *active)
    return tuple(dict.fromkeys(name for name in named if name in known))


def _known(part: Any) -> frozenset[str]:
    """The adapters that a layer has."""
    return frozenset(part._get_available_adapters())


def _state(part: Any, used: tuple[str, ...]) -> dict[str, Any]:
    scaling, merged = getattr(part, "scaling", {}), getattr(part, "merged_adapters", ())
    return {
        "kind": type(part).__name__,
        "used": [used.index(name) for name in _used(part)],
        "merged": [used.index(name) for name in merged],
        "disabled": bool(part.disable_adapters),
        "scaling": [str(scaling.get(name)) for name in _used(part)],
    }


def _settings(found: Any) -> dict[str, Any]:
    return {key: value for key, value in found.to_dict().items() if key not in _IRRELEVANT}
