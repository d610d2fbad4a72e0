"""Models and tokenizers of commands, loaded from a local folder."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

# Of a model's profile, in the model's folder. Beside the weights vLLM takes every *.safetensors for
# weights; into folders neither it nor transformers looks.
PROFILE = Path("cachegen") / "profile.safetensors"
_OTHER_HEAD = re.compile(r"For(MaskedLM|\w*Classification|QuestionAnswering|PreTraining)$")


def load_model(folder: Path) -> tuple[Any, Any]:
    """The model in eval mode and its tokenizer.

    Raises:
        ValueError: the folder holds no transformers model.
    """
    return load_network(folder), load_tokenizer(folder)


def load_network(folder: Path, *, dtype: str = "auto") -> Any:
    """The model alone, in eval mode.

    Args:
        folder: of a transformers model.
        dtype: of its weights; by default the one they are stored in.

    Raises:
        ValueError: the folder holds no transformers model.
    """
    _check_folder(folder)
    _check_head(folder)
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    except ValueError as exc:
        reason = str(exc).partition("\n")[0]
        raise ValueError(f"expected a causal language model in {folder}: {reason}") from exc


def load_twins(folder: Path) -> tuple[Any, Any]:
    """The model in its own dtype and in float32, in eval mode; one where they are the same.

    Raises:
        ValueError: the folder holds no transformers model.
    """
    import torch

    own = load_network(folder)
    return own, own if own.dtype == torch.float32 else load_network(folder, dtype="float32")


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer alone, for everything that can be said without the model.

    Raises:
        ValueError: the folder holds no transformers model.
    """
    _check_folder(folder)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def most_positions(folder: Path) -> int | None:
    """The number of tokens that a model takes; None where its configuration does not say.

    Raises:
        ValueError: the folder holds no transformers model.
    """
    _check_folder(folder)
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder).get_text_config(decoder=True)
    most = getattr(config, "max_position_embeddings", None)
    return int(most) if most else None


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ValueError(f"expected a folder with a transformers model, got {folder}")


def _check_head(folder: Path) -> None:
    """What was trained for something else loads as a causal model too, with a head of noise."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    names = config.get("architectures") or [""]
    if all(_OTHER_HEAD.search(name) for name in names):
        raise ValueError(f"expected a causal language model in {folder}, got {', '.join(names)}")


def read_tokens(path: Path, tokenizer: Any) -> list[int]:
    """The tokens of a text file."""
    ids = tokenizer(path.read_text(encoding="utf-8")).input_ids
    return [int(token) for token in ids]
