"""Where a model's configuration and weights come from, and the fingerprint of both.

The fingerprint is the one that `cachegen.engines.transformers` computes of the same folder, so that
contexts and profiles belong to both engines. Weights are mapped from their files and read once.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from cachegen.engines.transformers.identity.fingerprint import fingerprint
from cachegen.engines.vllm.identity.digests import files_digest, state_of
from cachegen.engines.vllm.identity.kept import kept
from cachegen.errors import UnsupportedCache

logger = logging.getLogger("vllm.cachegen.identity")

# Goes into the names of kept fingerprints: another number forgets them all.
_KEPT = "cachegen vllm fingerprint 1"
_TAG = b"cachegen weights in files 1"
_ORIGINS = ("_name_or_path", "transformers_version")
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf")


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A model as an engine is told to load it.

    Attributes:
        folder: of its files.
        config: with the engine's overrides.
        dtype: of its weights in memory.
        trusts_code: whether code in the folder may run.
        is_plain: transformers loads the same weights from it that the engine does.
    """

    folder: Path
    config: PreTrainedConfig
    dtype: torch.dtype
    trusts_code: bool
    is_plain: bool

    def weights(self) -> list[Path]:
        """The files that hold weights: those of the first kind that there are.

        Raises:
            UnsupportedCache: there are none.
        """
        for pattern in _WEIGHTS:
            if found := sorted(self.folder.glob(pattern)):
                return found
        raise UnsupportedCache(f"expected files of weights in {self.folder}, found none")


def source_of(vllm_config: Any) -> Source:
    """The model of an engine.

    Raises:
        UnsupportedCache: its files are not on this machine.
    """
    model, load = vllm_config.model_config, vllm_config.load_config
    folder = _folder(model, load)
    config = AutoConfig.from_pretrained(
        model.hf_config_path or folder, trust_remote_code=model.trust_remote_code
    )
    overrides = model.hf_overrides
    if callable(overrides):
        config = overrides(config)
    else:
        for key, value in overrides.items():
            _override(config, key, value)
    is_plain = load.load_format in ("auto", "hf", "safetensors", "pt") and not getattr(
        config, "quantization_config", None
    )
    return Source(folder, config, model.dtype, model.trust_remote_code, is_plain)


def fingerprint_of(source: Source) -> bytes:
    """SHA-256 over everything of the model that decides which keys and values a text gets.

    That of the transformers engine where transformers can load the model; otherwise over the bytes
    of its files. A model that was seen before is known by its files' places, sizes and times.

    Raises:
        UnsupportedCache: there are no weights, or they cannot be read.
    """
    return kept(_name(source), lambda: _computed(source))


def content_of(source: Source) -> bytes:
    """SHA-256 over every byte of the files of weights, read once as well.

    Raises:
        UnsupportedCache: as `fingerprint_of`.
    """
    return kept(f"{_name(source)}-files", lambda: _content(source))


def _computed(source: Source) -> bytes:
    if source.is_plain:
        try:
            return _of_transformers(source)
        except Exception as error:
            logger.warning(
                "transformers does not load %s (%s: %s): its contexts are this engine's own",
                source.folder, type(error).__name__, error,
            )  # fmt: skip
    settings = json.dumps([_settings(source), str(source.dtype)], sort_keys=True)
    return hashlib.sha256(_TAG + content_of(source) + settings.encode()).digest()


def _content(source: Source) -> bytes:
    try:
        return files_digest(source.weights())
    except OSError as error:
        raise UnsupportedCache(f"{source.folder}: weights cannot be read: {error}") from error


def _of_transformers(source: Source) -> bytes:
    model = AutoModelForCausalLM.from_pretrained(
        source.folder,
        config=source.config,
        dtype=source.dtype,
        trust_remote_code=source.trusts_code,
        local_files_only=True,
    )
    return fingerprint(model.eval())


def _name(source: Source) -> str:
    """Changes with whatever the fingerprint depends on, as far as files tell that they changed."""
    files = sorted({*source.weights(), *source.folder.glob("*.json"), *source.folder.glob("*.py")})
    parts = [
        _KEPT, transformers.__version__, torch.__version__, str(source.dtype), source.is_plain,
        _settings(source), [state_of(path) for path in files],
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _settings(source: Source) -> Mapping[str, Any]:
    """The configuration as JSON, without where it came from."""
    found = json.loads(source.config.to_json_string(use_diff=False))
    return {key: value for key, value in found.items() if key not in _ORIGINS}


def _folder(model: Any, load: Any) -> Path:
    if getattr(model, "model_weights", ""):
        raise UnsupportedCache(
            f"weights of {model.model_weights} are streamed: expected a model whose files are here"
        )
    here = Path(model.model)
    if here.is_dir():
        return here
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                model.model,
                revision=model.revision,
                cache_dir=load.download_dir,
                local_files_only=True,
            )
        )
    except Exception as error:
        raise UnsupportedCache(
            f"expected the files of {model.model} on this machine: {error}"
        ) from error


def _override(target: Any, key: str, value: Any) -> None:
    """As the engine does: parts of a configuration are changed key by key, all else is set."""
    part = getattr(target, key, None)
    if isinstance(value, Mapping) and isinstance(part, PreTrainedConfig):
        for inner, inner_value in value.items():
            _override(part, inner, inner_value)
    else:
        setattr(target, key, value)


def rope_kinds(config: PreTrainedConfig) -> Iterator[str]:
    """The kinds of rotation that a configuration asks for."""
    text = config.get_text_config(decoder=True)
    parameters = getattr(text, "rope_parameters", None) or {}
    nested = [entry for entry in parameters.values() if isinstance(entry, Mapping)]
    for entry in nested or [parameters]:
        yield str(entry.get("rope_type", "default"))
