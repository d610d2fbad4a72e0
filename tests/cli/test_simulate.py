"""`simulate` as a user runs it."""

import json

import pytest
from typer.testing import CliRunner

from cachegen.bitstream.manifest import ChunkEntry, Manifest, StoredObject, object_key
from cachegen.cli import app

CHUNK_ID = bytes(range(32))


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["simulate", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_a_table_for_people() -> None:
    shown = run("--loads", "2", "--slo", "1.5", "--tokens", "4096")
    assert "Llama-3.1-8B, 4096 tokens in 3 chunks, constant 3000 Mbit/s" in shown
    for policy in ("min_ttft", "algorithm1", "fixed:high", "fixed:raw", "text"):
        assert policy in shown
    assert "Assumed: prefill at 50% of the published bf16 rate of 1 x A100-80G" in shown


def test_json_for_scripts() -> None:
    arguments = ("--trace", "puffer-2", "--mbit", "1000", "--speed-up", "10", "--loads", "3")
    policies = ("--policy", "text", "--policy", "fixed:low")
    result = json.loads(run(*arguments, *policies, "--gpu", "h100", "--json"))
    assert result["mean_mbit_s"] == pytest.approx(1000.0)
    assert list(result["policies"]) == ["text", "fixed:low"]
    text, low = result["policies"].values()
    assert (text["mean_bytes"], text["recomputed"], text["num_loads"]) == (0, 1.0, 3)
    assert low["levels"] == {"low": 1.0}
    assert text["met"] is None
    assert result["loads_per_s"] > 0


def test_a_deeper_model_takes_longer() -> None:
    seconds = [
        json.loads(run("--model", model, "--policy", "text", "--loads", "1", "--json"))
        for model in ("Llama-3.1-8B", "Llama-3.1-70B")
    ]
    small, large = (result["policies"]["text"]["ttft_median_s"] for result in seconds)
    assert large > 5 * small


def test_sizes_of_a_manifest(tmp_path) -> None:
    key = object_key(CHUNK_ID, start=0, stop=100, level="high")
    stored = StoredObject("high", key, size_bytes=1_001, sha256=bytes(32))
    chunk = ChunkEntry(CHUNK_ID, 0, 100, (stored,))
    path = tmp_path / "manifest"
    path.write_bytes(Manifest(CHUNK_ID, bytes(32), 100, True, (chunk,)).to_bytes())
    result = json.loads(
        run("--manifest", str(path), "--policy", "fixed:high", "--loads", "1", "--json")
    )
    assert (result["tokens"], result["chunks"]) == (100, 1)
    assert result["policies"]["fixed:high"]["mean_bytes"] == 1_001


def test_bits_of_levels() -> None:
    bits = ("--bits", "low=1", "--bits", "high=4", "--tokens", "1024", "--loads", "1")
    result = json.loads(run(*bits, "--policy", "fixed:high", "--json"))
    assert result["policies"]["fixed:high"]["mean_bytes"] == 1024 * 65536 * 4 / 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        (("--model", "none"), "expected one of the models"),
        (("--gpu", "none"), "expected one of A100-80G"),
        (("--trace", "none"), "is no trace"),
        (("--policy", "none"), "as policy"),
        (("--bits", "high"), "expected LEVEL=BITS"),
        (("--loads", "0"), "at least one load"),
        (("--tokens", "-1"), "lengths above 0"),
        (("--speed-up", "0"), "factor above 0"),
        (("--jobs", "0"), "at least one process"),
    ),
)
def test_bad_input_is_a_clear_error(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(*arguments)
