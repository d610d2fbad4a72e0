"""`encode`, `decode` and `inspect` where the profile predicts from the text."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from cachegen.cli import app
from cachegen.cli.kvfile import read_kv, read_kv_tokens, write_kv
from cachegen.codec.levels import Quality
from cachegen.codec.profile import Profile
from cachegen.errors import TokensMismatch
from cachegen.kvcache import KVCache

TOKENS = [(11 * place) % 40 for place in range(70)]
DOMAIN = Quality(0.002, 0.001, 0.99, 128, 0.004, 0.95, 1.0, 20)


@pytest.fixture
def kv() -> KVCache:
    planes = torch.randn((4, 2, 70, 8), generator=torch.Generator().manual_seed(3)).bfloat16()
    return KVCache.from_layers([(planes[0], planes[1]), (planes[2], planes[3])], start=64)


@pytest.fixture
def profile(kv: KVCache, make_transform_profile: Callable[..., Profile]) -> Profile:
    made = make_transform_profile(kv, steps={"low": 0.2, "high": 0.05}, bound=0.5)
    low, high = made.levels
    measured = replace(low, quality=DOMAIN, domains={"novels": DOMAIN, "tasks": DOMAIN})
    return replace(made, levels=(measured, high))


@pytest.fixture
def files(tmp_path: Path, kv: KVCache, profile: Profile) -> Path:
    """A folder with a cache, its tokens as a list, and a profile."""
    write_kv(kv, tmp_path / "kv", tokens=TOKENS)
    (tmp_path / "tokens").write_text(json.dumps(TOKENS))
    (tmp_path / "profile").write_bytes(profile.file_bytes)
    return tmp_path


def run_json(*arguments: object) -> dict[str, Any]:
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def encode(files: Path, *options: object) -> dict[str, Any]:
    target = ("-o", files / "chunk", "--profile", files / "profile")
    return run_json("encode", files / "kv", *target, *options)


@pytest.mark.parametrize("source", ["kv", "tokens"])
def test_tokens_come_from_the_cache_s_file_or_from_a_list(
    files: Path, kv: KVCache, source: str
) -> None:
    tokens = ("--tokens", files / source)
    if source == "tokens":
        write_kv(kv, files / "kv")
    encode(files, *(tokens if source == "tokens" else ()))
    target = ("-o", files / "back", "--profile", files / "profile")
    run_json("decode", files / "chunk", *target, *tokens)
    assert read_kv_tokens(files / "back") == TOKENS
    for a, b in zip(read_kv(files / "back").planes(), kv.planes(), strict=True):
        assert (a.float() - b.float()).abs().max() < 0.6


def test_missing_and_other_tokens_are_refused(files: Path, kv: KVCache) -> None:
    encode(files)
    command = ["decode", str(files / "chunk"), "-o", str(files / "back")]
    command += ["--profile", str(files / "profile")]
    missing = CliRunner().invoke(app, command)
    assert isinstance(missing.exception, ValueError)
    assert "tokens" in str(missing.exception)
    (files / "tokens").write_text(json.dumps([0] * 70))
    other = CliRunner().invoke(app, [*command, "--tokens", str(files / "tokens")])
    assert isinstance(other.exception, TokensMismatch)
    assert not (files / "back").exists()


def test_inspect_explains_the_chunk(files: Path) -> None:
    encode(files)
    found = run_json("inspect", files / "chunk")
    assert (found["codec"], found["level"], found["rung"]) == ("transform", "low", 0)
    assert len(found["tokens_digest"]) == 64
    assert 0 < found["distortion_nats_per_token"] <= found["distortion_bound"] == 0.5
    text = CliRunner().invoke(app, ["inspect", str(files / "chunk")]).stdout
    assert "distortion_bound" in text


def test_inspect_explains_the_profile(files: Path) -> None:
    found = run_json("inspect", files / "profile")
    low, high = found["levels"]
    assert (found["codec"], low["name"], low["bound"]) == ("transform", "low", 0.5)
    assert (found["layer_groups"], found["vocabulary"]) == (2, 50)
    assert low["coefficients"] == "32, 32"
    assert set(low["domains"]) == {"novels", "tasks"}
    assert low["domains"]["tasks"]["answer_kl"] == 0.004
    assert low["domains"]["tasks"]["exact_match"] == 0.95
    assert "domains" not in high
    text = CliRunner().invoke(app, ["inspect", str(files / "profile")]).stdout
    assert "    tasks: kl 0.002" in text
