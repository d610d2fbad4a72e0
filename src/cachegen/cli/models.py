"""Models and tokenizers for commands, loaded from a local folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def load_model(folder: Path) -> tuple[Any, Any]:
    """The model in eval mode and its tokenizer.

    Raises:
        ValueError: the folder holds no transformers model.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"expected a folder with a transformers model, got {folder}")
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    return model, AutoTokenizer.from_pretrained(folder)


def read_tokens(path: Path, tokenizer: Any) -> list[int]:
    """The tokens of a text file."""
    ids = tokenizer(path.read_text(encoding="utf-8")).input_ids
    return [int(token) for token in ids]
