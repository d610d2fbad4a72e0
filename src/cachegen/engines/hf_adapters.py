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


def adapters(model: PreTrainedModel, modules: Modules) -> dict[str, Any]:
    """What decides how adapters change a model: settings, and per layer what is switched on.

    Nothing where no adapter takes part; such a model computes what the bare one does.
    """
    parts = _parts(modules)
    if not any(map(_takes_part, parts.values())):
        return {}
    settings = getattr(model, "peft_config", {})
    return {
        "settings": {name: _settings(found) for name, found in settings.items()},
        "layers": {name: _state(part) for name, part in parts.items()},
    }


def bare_name(modules: Modules) -> Callable[[str], str | None]:
    """Names of tensors as the bare model has them, where no adapter takes part; None for theirs."""
    parts = _parts(modules)
    if not parts or any(map(_takes_part, parts.values())):
        return lambda name: name

    def bare(name: str) -> str | None:
        pieces, kept = name.split("."), []
        for index, piece in enumerate(pieces):
            if ".".join(pieces[:index]) not in parts:
                kept.append(piece)
            elif piece not in _WRAPPED:
                return None
        return ".".join(kept)

    return bare


def _parts(modules: Modules) -> dict[str, nn.Module]:
    """Layers with adapters, and modules that were trained as a whole."""
    layers = getattr(sys.modules.get("peft.tuners.tuners_utils"), "BaseTunerLayer", ())
    wholes = getattr(sys.modules.get("peft.utils.other"), "AuxiliaryTrainingWrapper", ())
    return {n: module for n, module in modules.items() if isinstance(module, (layers, wholes))}


def _takes_part(part: Any) -> bool:
    if getattr(part, "merged_adapters", None):
        return True
    return not part.disable_adapters and bool(part.active_adapters)


def _state(part: Any) -> dict[str, Any]:
    active = list(part.active_adapters)
    scaling = getattr(part, "scaling", {})
    return {
        "kind": type(part).__name__,
        "disabled": bool(part.disable_adapters),
        "active": active,
        "merged": list(getattr(part, "merged_adapters", [])),
        "scaling": {name: str(scaling[name]) for name in active if name in scaling},
    }


def _settings(found: Any) -> dict[str, Any]:
    return {key: value for key, value in found.to_dict().items() if key not in _IRRELEVANT}
