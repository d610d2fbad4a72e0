"""`encode`, `decode` and `inspect` as a user runs them."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from cachegen.cli import app
from cachegen.cli.kvfile import read_kv, write_kv
from cachegen.kvcache import KVCache


@pytest.fixture
def kv_file(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(3)
    layers = [
        (
            torch.randn(2, 100, 16, generator=generator).bfloat16(),
            torch.randn(2, 100, 8, generator=generator).bfloat16(),
        )
        for _ in range(3)
    ]
    path = tmp_path / "kv.safetensors"
    write_kv(KVCache.from_layers(layers, start=64), path)
    return path


def run_json(*arguments: object) -> dict[str, object]:
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def test_a_lossless_chunk_decodes_to_the_same_file(kv_file: Path, tmp_path: Path) -> None:
    chunk, back = tmp_path / "chunk", tmp_path / "back.safetensors"
    report = run_json("encode", kv_file, "-o", chunk, "--level", "lossless")
    assert report["bytes"] == chunk.stat().st_size
    assert report["tokens"] == 100
    run_json("decode", chunk, "-o", back)
    before, after = read_kv(kv_file), read_kv(back)
    assert after.start == before.start == 64
    for a, b in zip(before.planes(), after.planes(), strict=True):
        assert torch.equal(a, b)


def test_the_default_level_is_smaller_than_eight_bits(kv_file: Path, tmp_path: Path) -> None:
    lossy = run_json("encode", kv_file, "-o", tmp_path / "a", "--level", "lowest")
    packed = run_json("encode", kv_file, "-o", tmp_path / "b", "--level", "packed")
    assert int(str(lossy["bytes"])) < int(str(packed["bytes"]))


def test_inspect_explains_a_chunk(kv_file: Path, tmp_path: Path) -> None:
    chunk = tmp_path / "chunk"
    run_json("encode", kv_file, "-o", chunk, "--level", "high")
    found = run_json("inspect", chunk)
    assert (found["kind"], found["level"], found["codec"]) == ("chunk", "high", "adaptive")
    assert found["tokens"] == "64..164"
    assert found["profile"] == "none needed"
    text = CliRunner().invoke(app, ["inspect", str(chunk)])
    assert "3" in text.stdout
    assert "block 0" in text.stdout


def test_an_unknown_level_names_those_there_are(kv_file: Path, tmp_path: Path) -> None:
    command = ["encode", str(kv_file), "-o", str(tmp_path / "x"), "--level", "best"]
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, ValueError)
    levels = "lowest, low, medium, high, highest, adaptive, packed, lossless, raw"
    assert levels in str(result.exception)
    assert not (tmp_path / "x").exists()


def test_a_file_that_is_no_cache_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("hello")
    result = CliRunner().invoke(app, ["encode", str(path), "-o", str(tmp_path / "x")])
    assert "layers.0.keys" in str(result.exception)


@pytest.mark.parametrize(
    "command", ["demo", "calibrate", "encode", "decode", "inspect", "save", "load"]
)
def test_every_command_has_help(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.stdout
