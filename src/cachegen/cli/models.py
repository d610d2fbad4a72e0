"""Models and tokenizers for commands, loaded from a local folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def load_model(folder: Path) -> tuple[Any, Any]:
    """The model in eval mode and its tokenizer.

    Raises:
        ValueError: the folder holds no transformers model.
    """
    return load_network(folder), load_tokenizer(folder)


def load_network(folder: Path) -> Any:
    """The model alone, in eval mode.

    Raises:
        ValueError: the folder holds no transformers model.
    """
    _check_folder(folder)
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    except ValueError as exc:
        reason = str(exc).partition("\n")[0]
        raise ValueError(f"expected a causal language model in {folder}: {reason}") from exc


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer alone, for everything that can be said without the model.

    Raises:
        ValueError: the folder holds no transformers model.
    """
    _check_folder(folder)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ValueError(f"expected a folder with a transformers model, got {folder}")


def read_tokens(path: Path, tokenizer: Any) -> list[int]:
    """The tokens of a text file."""
    ids = tokenizer(path.read_text(encoding="utf-8")).input_ids
    return [int(token) for token in ids]
