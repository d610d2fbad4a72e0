"""The model behind its wrappers: what is run, and where its inputs go."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedModel

from cachegen.errors import UnsupportedCache


def plain_model(model: PreTrainedModel) -> PreTrainedModel:
    """The model inside wrappers of `torch.compile`, data parallelism and PEFT.

    Adapters that PEFT has put into the model's layers stay there.

    Raises:
        UnsupportedCache: prompt or prefix tuning, which put virtual tokens before every text, or
            activated LoRA, which adapts a part of it.
    """
    inner: Any = getattr(model, "_orig_mod", model)
    if isinstance(inner, torch.nn.DataParallel | torch.nn.parallel.DistributedDataParallel):
        inner = inner.module
    if hasattr(inner, "get_base_model"):
        _refuse_whole_texts(inner)
        inner = inner.get_base_model()
    return getattr(inner, "_orig_mod", inner)


def adapter_wrapper(model: PreTrainedModel) -> Any:
    """PEFT's model around a model; None where there is none."""
    inner = getattr(model, "_orig_mod", model)
    return inner if hasattr(inner, "get_base_model") else None


def is_packed(module: torch.nn.Module) -> bool:
    """Whether it is one of PyTorch's quantised layers, made for inference only."""
    return type(module).__module__.startswith("torch.ao.")


def numbers_by_padding(module: torch.nn.Module) -> bool:
    """Whether it counts positions from the padding token's id on (RoBERTa and its like)."""
    return hasattr(type(module), "create_position_ids_from_input_ids")


def _refuse_whole_texts(model: Any) -> None:
    """Adapters that do more than change what a layer makes of a token and those before it."""
    for name, settings in model.peft_config.items():
        if getattr(settings, "alora_invocation_tokens", None):
            raise UnsupportedCache(
                f"adapter {name!r} is an activated LoRA, which begins where its invocation stands "
                "in the text, and so decides by the whole text: expected an adapter that works on "
                "all tokens alike, such as LoRA"
            )
        if getattr(settings, "is_prompt_learning", False):
            raise UnsupportedCache(
                f"adapter {name!r} is {settings.peft_type}, which puts virtual tokens before every "
                "text: expected a cache that holds keys and values of tokens only; use an adapter "
                "of the weights, such as LoRA, or call model.get_base_model()"
            )


def accepts(model: PreTrainedModel, argument: str) -> bool:
    """Whether a forward pass takes this argument; wrappers are looked through."""
    return argument in inspect.signature(plain_model(model).forward).parameters


def autocast_types(model: PreTrainedModel) -> dict[str, str]:
    """The type that automatic mixed precision computes in, by kind of device; nothing when off."""
    accelerator = torch.accelerator.current_accelerator()
    on = {kind for kind in ("cpu", accelerator.type if accelerator else "cpu") if _is_mixed(kind)}
    if not on:
        return {}
    used = {input_device(model).type, *(tensor.device.type for tensor in model.parameters())}
    return {kind: str(torch.get_autocast_dtype(kind)) for kind in sorted(on & used)}


def _is_mixed(kind: str) -> bool:
    return bool(torch.is_autocast_enabled(kind))


def vocabulary_size(model: PreTrainedModel) -> int:
    """Rows of the input embedding: ids below this are tokens."""
    embedding = plain_model(model).get_input_embeddings()
    size: int = getattr(embedding, "num_embeddings", 0) or model.config.get_text_config().vocab_size
    return size


def hooks(module: torch.nn.Module) -> Iterator[Any]:
    """What accelerate has attached to a module."""
    attached = getattr(module, "_hf_hook", None)
    if attached is not None:
        yield from getattr(attached, "hooks", (attached,))


def input_device(model: PreTrainedModel) -> torch.device:
    """Where token ids go: to the embedding, or to where accelerate runs an offloaded one."""
    model = plain_model(model)
    embedding = model.get_input_embeddings()
    weight = next(embedding.parameters(), None)
    if weight is not None and weight.device.type != "meta":
        return torch.device(weight.device)
    for module in (embedding, model):
        for hook in hooks(module):
            if getattr(hook, "execution_device", None) is not None:
                return _device(hook.execution_device)
    return torch.device("cpu")


def _device(named: int | str | torch.device) -> torch.device:
    """Accelerate names accelerators by their number."""
    if isinstance(named, int):
        kind = torch.accelerator.current_accelerator()
        return torch.device(kind.type if kind else "cpu", named)
    return torch.device(named)
