"""The main job end to end: one process saves a document, another loads it and answers."""

import json
import subprocess
import sys

import pytest

from cachegen.codec.levels import LADDER

DEMO = [sys.executable, "-m", "cachegen.cli", "demo", "--json", "--no-link"]


@pytest.mark.slow
def test_the_demo_answers_as_well_from_the_default_level_as_without_coding() -> None:
    done = subprocess.run(
        [*DEMO, "--tokens", "1088", "--questions", "8"], capture_output=True, check=True
    )
    result = json.loads(done.stdout)
    assert 1024 <= result["context_tokens"] <= 1088
    assert result["questions"] == 8
    assert result["answers_correct"] >= 0.9
    assert result["answers_equal"] >= 0.9
    assert result["default_level"] in LADDER

    assert "link" not in result

    levels = {level["name"]: level for level in result["levels"]}
    assert list(levels) == [*LADDER, "packed", "lossless", "raw"]
    sizes = [level["bytes"] for level in result["levels"]]
    assert sizes == sorted(sizes)
    assert levels["raw"]["kl"] == levels["lossless"]["kl"] == 0
    assert levels["lossless"]["answers_equal"] == 1
    assert levels["lowest"]["kl"] > levels["high"]["kl"] > levels["packed"]["kl"] > 0
    assert levels["raw"]["bytes"] >= result["fp16_bytes"]
    assert 16 <= levels["raw"]["bits_per_value"] < 16.1
    assert 8 < levels["packed"]["bits_per_value"] < 9
    assert all(level["load_s"] > 0 and level["encode_s"] > 0 for level in result["levels"])
