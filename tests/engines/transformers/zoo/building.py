"""A tiny random model of any architecture of the zoo."""

from __future__ import annotations

import textwrap

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from tests.engines.transformers.zoo.architectures import ARCHITECTURES
from tests.engines.transformers.zoo.sizes import tiny_config

_MOST_PARAMETERS = 20_000_000
_LONGEST_NOTE = 200
# Their configurations are those of a part of what `AutoModelForCausalLM` maps.
_CLASSES = {
    "musicgen_decoder": "MusicgenForCausalLM",
    "musicgen_melody_decoder": "MusicgenMelodyForCausalLM",
}


class NotBuilt(Exception):
    """There is no tiny model of this architecture here; says why."""


def build(name: str, *, seed: int = 0) -> PreTrainedModel:
    """The model of a name, the same for the same seed.

    Raises:
        NotBuilt: its configuration cannot be made tiny, or it needs what is not installed.
    """
    try:
        config = tiny_config(**ARCHITECTURES[name])
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in _make(config).parameters())
        if size > _MOST_PARAMETERS:
            raise NotBuilt(f"{size:,} parameters at the smallest")
        torch.manual_seed(seed)
        return _make(config).to(torch.float32).eval()
    except NotBuilt:
        raise
    except Exception as error:
        raise NotBuilt(first_sentence(error)) from error


def reopen(model: PreTrainedModel, folder: str) -> PreTrainedModel:
    """A model that was saved, from its files."""
    config = type(model.config).from_pretrained(folder)
    return type(model).from_pretrained(folder, config=config)


def _make(config: PreTrainedConfig) -> PreTrainedModel:
    if config.model_type in _CLASSES:
        return getattr(transformers, _CLASSES[config.model_type])(config)
    return AutoModelForCausalLM.from_config(config)


def first_sentence(error: BaseException) -> str:
    """What an error says first, on one line."""
    text = " ".join(str(error).split())
    for stop in (". ", "; ", ": expected"):
        text = text.split(stop)[0]
    return textwrap.shorten(text, _LONGEST_NOTE, placeholder=" ...") or type(error).__name__
