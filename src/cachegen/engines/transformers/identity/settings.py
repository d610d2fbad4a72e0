"""What a model is set to: its configuration, adapters, types, and what its modules hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from cachegen.engines.transformers.identity.adapters import Modules, adapter_layers, adapters
from cachegen.engines.transformers.model import autocast_types, numbers_by_padding, plain_model

_IRRELEVANT = frozenset(
    {
        "_name_or_path", "architectures", "attention_dropout", "bos_token_id", "dtype",
        "eos_token_id", "id2label", "initializer_range", "label2id", "output_attentions",
        "output_hidden_states", "pad_token_id", "problem_type", "return_dict",
        "tie_word_embeddings", "torch_dtype", "transformers_version", "use_cache",
    }
)  # fmt: skip
# Attentions of transformers itself.
_ATTENTIONS = ("eager", "sdpa", "flash_attention", "flex_attention", "paged|")
# Numbers in modules that decide nothing, or change while a model runs.
_UNIMPORTANT = frozenset({"gradient_checkpointing", "padding_idx", "training"})
_CHANGING = ("drop", "initialized", "max_seq_len_cached")


def settings_digest(model: PreTrainedModel, modules: Modules | None = None) -> bytes:
    """SHA-256 over the configuration as far as it differs from its class's defaults, the types,
    adapters that take part, automatic mixed precision, and an attention of the caller's own."""
    model = plain_model(model)
    attention = str(getattr(model.config, "_attn_implementation", None) or "eager")
    found = {
        "config": _settings(model.config),
        "dtype": str(model.dtype),
        "adapters": adapters(model, dict(model.named_modules()) if modules is None else modules),
        "autocast": autocast_types(model),
        "attention": "" if _rounds_only(model.config, attention) else attention,
    }
    return _digest({key: value for key, value in found.items() if value})


def _rounds_only(config: PreTrainedConfig, attention: str) -> bool:
    """Whether it differs from other attentions by rounding only; Falcon's biases differ by more."""
    has_biases = getattr(config.get_text_config(decoder=True), "alibi", False)
    return attention.startswith(_ATTENTIONS) and not has_biases


def modules_digest(modules: Modules, bare: Callable[[str], str | None]) -> bytes:
    """SHA-256 over the class of every module and the numbers it holds: scales, windows, ranges."""
    layers = adapter_layers(modules)
    found = []
    for name, module in modules.items():
        shown = bare(name) if name else ""
        is_wrapper = name in layers or type(module).__name__ == "OptimizedModule"
        if shown is None or is_wrapper or isinstance(module, nn.modules.dropout._DropoutNd):
            continue
        numbers = sorted(_numbers(module)) if name else []
        found.append([shown, type(module).__qualname__, numbers])
    return _digest(sorted(found))


def _numbers(module: nn.Module) -> Iterator[tuple[str, float]]:
    ignored = _UNIMPORTANT - {"padding_idx"} if numbers_by_padding(module) else _UNIMPORTANT
    for name, value in vars(module).items():
        if not isinstance(value, int | float) or name.startswith("_") or name in ignored:
            continue
        if not any(part in name for part in _CHANGING):
            yield name, value


def _settings(config: PreTrainedConfig) -> dict[str, Any]:
    """What differs from the class's defaults, so that new defaulted settings change nothing."""
    parts = {name: getattr(config, name, None) for name in config.sub_configs}
    nested = {
        name: _settings(part) for name, part in parts.items() if isinstance(part, PreTrainedConfig)
    }
    kind: Any = type(config)
    defaults = _defaults(kind)
    own = {
        key: value
        for key, value in config.to_dict().items()
        if key not in nested
        and (key == "model_type" or (key not in _IRRELEVANT and value != defaults.get(key)))
    }
    return {**own, **nested}


@cache
def _defaults(kind: type[PreTrainedConfig]) -> dict[str, Any]:
    """A configuration class's defaults; none where it cannot be made without arguments."""
    try:
        return dict(kind().to_dict())
    except (TypeError, ValueError):
        return {}


def _digest(value: Any) -> bytes:
    """Of JSON that does not depend on the order of keys or sets."""
    text = json.dumps(
        value, sort_keys=True, default=lambda v: sorted(v) if isinstance(v, set) else str(v)
    )
    return hashlib.sha256(text.encode()).digest()
