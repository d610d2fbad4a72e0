"""A folder's fingerprint is that of the model which transformers loads from it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from cachegen.engines.transformers import fingerprint
from cachegen.engines.vllm.identity import source as module
from cachegen.engines.vllm.identity.source import Source, fingerprint_of
from cachegen.errors import UnsupportedCache
from cachegen.loading.measurements import FOLDER_VARIABLE
from cachegen.refmodel import weights_path


@pytest.fixture(autouse=True)
def nothing_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))


def source(folder: Path | None = None, **changes: object) -> Source:
    folder = folder or weights_path()
    made = Source(folder, AutoConfig.from_pretrained(folder), torch.bfloat16, False, True)
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(weights_path(), tmp_path / "model"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_is_that_of_the_loaded_model(dtype: torch.dtype) -> None:
    model = AutoModelForCausalLM.from_pretrained(weights_path(), dtype=dtype)
    assert fingerprint_of(source(dtype=dtype)) == fingerprint(model)


def test_does_not_depend_on_the_folder(copied: Path) -> None:
    assert fingerprint_of(source(copied)) == fingerprint_of(source())


def test_weights_are_read_once(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = fingerprint_of(source(copied))
    monkeypatch.setattr(module, "_computed", None)
    assert fingerprint_of(source(copied)) == found


def test_one_other_weight_is_another_model(copied: Path) -> None:
    before = fingerprint_of(source(copied))
    tensors = load_file(copied / "model.safetensors")
    name = next(iter(tensors))
    tensors[name].view(-1)[0] += 1
    save_file(tensors, copied / "model.safetensors", {"format": "pt"})
    assert fingerprint_of(source(copied)) != before


def test_another_configuration_is_another_model(copied: Path) -> None:
    before = fingerprint_of(source(copied))
    config = json.loads((copied / "config.json").read_text())
    config["rms_norm_eps"] = 1e-5
    (copied / "config.json").write_text(json.dumps(config))
    assert fingerprint_of(source(copied)) != before


def test_what_transformers_does_not_load_is_named_by_its_files(copied: Path) -> None:
    config = AutoConfig.from_pretrained(copied)
    before = fingerprint_of(source(copied, is_plain=False))
    assert before != fingerprint_of(source(copied))
    assert before == fingerprint_of(source(is_plain=False))
    assert before != fingerprint_of(source(copied, is_plain=False, dtype=torch.float16))
    config.rms_norm_eps = 1e-5
    assert before != fingerprint_of(source(copied, is_plain=False, config=config))
    with (copied / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")
    assert before != fingerprint_of(source(copied, is_plain=False))


def test_a_folder_without_weights_is_refused(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    with pytest.raises(UnsupportedCache, match="files of weights"):
        fingerprint_of(source(copied))
