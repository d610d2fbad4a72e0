"""Write a model and its tokenizer as a folder that transformers and vLLM load, in bfloat16."""

import json
import shutil
import tempfile
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast


def export_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Files are renamed into the folder one by one, each complete."""
    folder.mkdir(parents=True, exist_ok=True)
    copy = type(model)(model.config)
    copy.load_state_dict(model.state_dict())
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        copy.to(torch.bfloat16).save_pretrained(name)
        tokenizer.save_pretrained(name)
        _name_tokenizer_class(Path(name) / "tokenizer_config.json")
        for path in Path(name).iterdir():
            path.chmod(0o644)
            shutil.move(path, folder / path.name)


def _name_tokenizer_class(path: Path) -> None:
    """Name the class that transformers 4 knows too, and drop what concerns this machine only."""
    config = json.loads(path.read_text())
    for key in ("backend", "is_local", "local_files_only"):
        config.pop(key, None)
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(config, indent=2) + "\n")
