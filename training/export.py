"""Write a model and its tokenizer as a folder that transformers and vLLM load, in bfloat16."""

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
        for path in Path(name).iterdir():
            path.chmod(0o644)
            shutil.move(path, folder / path.name)
