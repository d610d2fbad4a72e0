"""Who computed a cache: one digest for a model's weights, configuration, adapters and type."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from cachegen.engines.hf_adapters import Modules, adapters
from cachegen.engines.hf_model import autocast_types, plain_model
from cachegen.engines.hf_weights import weights_digest

_IRRELEVANT = frozenset(
    {
        "_name_or_path", "architectures", "attention_dropout", "bos_token_id", "dtype",
        "eos_token_id", "id2label", "initializer_range", "label2id", "output_attentions",
        "output_hidden_states", "pad_token_id", "problem_type", "return_dict",
        "tie_word_embeddings", "torch_dtype", "transformers_version", "use_cache",
    }
)  # fmt: skip


def fingerprint(model: PreTrainedModel, *, fresh: bool = False) -> bytes:
    """SHA-256 over everything that decides which keys and values a text gets, as it is in memory.

    That is: the configuration as far as it differs from its class's defaults; every byte of the
    parameters, buffers and packed weights; adapters with their state and scale; automatic mixed
    precision. Wrappers of `torch.compile`, and adapters that take no part, change nothing.

    All weights are read once, at 1 to 2 GB/s a core (measured on x86-64 with SHA extensions: 16 GB
    of an 8 B model take 8 to 16 s on one core, 1 to 2 s on eight), and the digest is kept. Later
    calls notice writes that PyTorch counts, and tensors that were replaced. Of writes behind its
    back (through `.data`, NumPy or a foreign library) they see 512 places of each tensor, one drawn
    in each of 512 equal parts: a write to n of its N elements is missed with a probability of at
    most exp(-512 n / N), one to N / 256 or more neighbours never.
    Rotation frequencies count as configured up to a millionth, which is what processors differ by.
    Files of weights offloaded to disk are taken to stay as they are.

    What is not seen: hooks, replaced forward functions, and attributes such as an attention's
    `scaling` that were edited by hand. Pass `extra=` with every save and load where such things
    differ.

    Args:
        model: a transformers model, wrapped or not.
        fresh: read all weights anew.

    Raises:
        UnsupportedCache: weights that are nowhere, or prompt and prefix tuning.
    """
    model = plain_model(model)
    modules = dict(model.named_modules())
    digest = hashlib.sha256(_canonical(_identity(model, modules)))
    digest.update(weights_digest(model, modules, fresh=fresh))
    return digest.digest()


def _identity(model: PreTrainedModel, modules: Modules) -> dict[str, Any]:
    found = {
        "config": _settings(model.config),
        "dtype": str(model.dtype),
        "adapters": adapters(model, modules),
        "autocast": autocast_types(model),
    }
    return {key: value for key, value in found.items() if value}


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


def _canonical(value: Any) -> bytes:
    """JSON that does not depend on the order of keys or sets."""
    text = json.dumps(
        value, sort_keys=True, default=lambda v: sorted(v) if isinstance(v, set) else str(v)
    )
    return text.encode()
