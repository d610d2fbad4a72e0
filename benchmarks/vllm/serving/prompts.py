"""Models and prompts: a stored text with a question behind it, and texts that nobody has asked."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from transformers import AutoTokenizer

from cachegen import refmodel
from cachegen.cli.models import PROFILE

# A text for measurements only, and one for prompts that are stored nowhere.
TEXT, OTHER = "heldout-chesterton", "eval-python"
QUESTION_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Model:
    """A model to serve.

    Attributes:
        name: in rows.
        folder: of the model.
        profile: file of its profile; None for the one that comes with the package.
    """

    name: str
    folder: Path
    profile: Path | None


def models(only: str | None = None) -> list[Model]:
    """SmolLM2 of `make models`, if it is there, with its profile; the shipped model."""
    default = platformdirs.user_cache_path("cachegen") / "models" / "smollm2"
    folder = Path(os.environ.get("CACHEGEN_SMOLLM2", default))
    profile = folder / PROFILE
    found = [Model("smollm2-135m", folder, profile if profile.exists() else None)]
    found = [model for model in found if (model.folder / "config.json").exists()]
    found.append(Model("reference-4m", refmodel.weights_path(), None))
    return [model for model in found if only in (None, model.name)]


@dataclass(frozen=True, slots=True, eq=False)
class Prompts:
    """Token ids.

    Attributes:
        context: what is stored.
        rest: what follows in the text.
        other: another text, longer than any prompt.
    """

    context: list[int]
    rest: list[int]
    other: list[int]

    def asked(self, number: int) -> list[int]:
        """The context with one of many questions behind it."""
        start = number * QUESTION_TOKENS % (len(self.rest) - QUESTION_TOKENS)
        return self.context + self.rest[start : start + QUESTION_TOKENS]

    def continued(self, num_tokens: int) -> list[int]:
        """The context with the beginning of what follows in the text."""
        return self.context + self.rest[:num_tokens]

    def unseen(self, number: int, num_tokens: int) -> list[int]:
        """A prompt that begins as no other does."""
        start = number * 61 % (len(self.other) - num_tokens)
        return [number % 1000 + 10, *self.other[start : start + num_tokens - 1]]


def prompts_of(model: Model, context_tokens: int) -> Prompts:
    """The texts in the model's tokens."""
    tokenizer = AutoTokenizer.from_pretrained(model.folder)
    text, other = (
        tokenizer(refmodel.load_text(name), verbose=False).input_ids for name in (TEXT, OTHER)
    )
    return Prompts(text[:context_tokens], text[context_tokens:], other)
