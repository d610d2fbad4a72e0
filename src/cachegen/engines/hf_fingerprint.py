"""Who computed a cache: one digest for a model's weights, configuration and adapters."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import safe_open
from transformers import PreTrainedConfig, PreTrainedModel

_SAMPLES = 64
_SAMPLE_BYTES = 4096
_IRRELEVANT = frozenset(
    {
        "_name_or_path", "architectures", "attention_dropout", "bos_token_id", "dtype",
        "eos_token_id", "id2label", "initializer_range", "label2id", "output_attentions",
        "output_hidden_states", "pad_token_id", "problem_type", "return_dict",
        "tie_word_embeddings", "torch_dtype", "transformers_version", "use_cache",
    }
)  # fmt: skip


def fingerprint(model: PreTrainedModel) -> bytes:
    """SHA-256 over everything that decides which keys and values a text gets.

    That is: the configuration as far as it differs from its class's defaults, the dtype, and
    the weights: of each safetensors file its header and 64 pieces of 4 KiB spread evenly over
    it. Where there are no such files, adapters are loaded, or the files' weights are not those
    in memory, the same pieces of every parameter in order of names take their place, with the
    adapters' settings. A change that spares every piece is not noticed.
    """
    digest = hashlib.sha256(_canonical(_identity(model)))
    files = () if _adapters(model) else _weight_files(model)
    if files and all(_same_weights(file, model) for file in files):
        for file in files:
            _hash_file(digest, file)
    else:
        _hash_parameters(digest, model)
    return digest.digest()


def _identity(model: PreTrainedModel) -> dict[str, Any]:
    return {
        "config": _settings(model),
        "dtype": str(model.dtype),
        "adapters": _adapters(model),
        "rounded_rope": _rounded_rope(model),
    }


def _settings(model: PreTrainedModel) -> dict[str, Any]:
    """What differs from the class's defaults, so that new defaulted settings change nothing."""
    config = model.config.get_text_config(decoder=True)
    kind: Any = type(config)
    defaults = _defaults(kind)
    return {
        key: value
        for key, value in config.to_dict().items()
        if key == "model_type" or (key not in _IRRELEVANT and value != defaults.get(key))
    }


@cache
def _defaults(kind: type[PreTrainedConfig]) -> dict[str, Any]:
    """A configuration class's defaults; none where it cannot be made without arguments."""
    try:
        return dict(kind().to_dict())
    except (TypeError, ValueError):
        return {}


def _adapters(model: PreTrainedModel) -> dict[str, Any]:
    """Settings of loaded PEFT adapters, and which of them are active."""
    loaded = getattr(model, "peft_config", None)
    if not loaded:
        return {}
    active = model.active_adapters
    return {
        "active": active() if callable(active) else active,
        "settings": {name: settings.to_dict() for name, settings in loaded.items()},
    }


def _rounded_rope(model: PreTrainedModel) -> dict[str, list[float]]:
    """Frequencies that `model.to(dtype)` rounded: such a model turns its keys differently."""
    return {
        name: buffer.tolist()
        for name, buffer in model.named_buffers()
        if name.endswith("inv_freq") and buffer.dtype != torch.float32
    }


def _weight_files(model: PreTrainedModel) -> tuple[Path, ...]:
    """The safetensors files the model was loaded from, in a folder or in the hub's cache."""
    name = model.config.name_or_path
    folder = Path(name) if name and Path(name).is_dir() else _hub_folder(model)
    return tuple(sorted(folder.glob("model*.safetensors"))) if folder else ()


def _hub_folder(model: PreTrainedModel) -> Path | None:
    revision = getattr(model.config, "_commit_hash", None)
    if revision is None:
        return None
    config = try_to_load_from_cache(model.config.name_or_path, "config.json", revision=revision)
    return Path(config).parent if isinstance(config, str) else None


def _same_weights(file: Path, model: PreTrainedModel) -> bool:
    """Whether the first row of every tensor that both have is the same in memory."""
    parameters = dict(model.named_parameters())
    with safe_open(file, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118
            stored, live = tensors.get_slice(name), parameters.get(name)
            if live is None or live.is_meta or stored.get_shape() != list(live.shape):
                continue
            if not torch.equal(stored[:1].to(live.dtype), live[:1].detach().cpu()):
                return False
    return True


def _hash_file(digest: hashlib._Hash, file: Path) -> None:
    size = file.stat().st_size
    with file.open("rb") as stream:
        header = stream.read(8)
        digest.update(header + stream.read(int.from_bytes(header, "little")))
        for start in _sample_starts(size):
            stream.seek(start)
            digest.update(stream.read(_SAMPLE_BYTES))


def _hash_parameters(digest: hashlib._Hash, model: PreTrainedModel) -> None:
    for name, parameter in sorted(model.named_parameters()):
        digest.update(_canonical([name, list(parameter.shape), str(parameter.dtype)]))
        data = parameter.detach().contiguous().view(-1).view(torch.uint8)
        pieces = [data[start : start + _SAMPLE_BYTES] for start in _sample_starts(len(data))]
        digest.update(torch.cat(pieces).cpu().numpy().tobytes())


def _sample_starts(size: int) -> list[int]:
    """Where the samples of so many bytes start: the first at 0, the last at the very end."""
    last = max(0, size - _SAMPLE_BYTES)
    return sorted({last * index // (_SAMPLES - 1) for index in range(_SAMPLES)})


def _canonical(value: Any) -> bytes:
    """JSON that does not depend on the order of keys or sets."""
    text = json.dumps(
        value, sort_keys=True, default=lambda v: sorted(v) if isinstance(v, set) else str(v)
    )
    return text.encode()
