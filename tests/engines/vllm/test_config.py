from __future__ import annotations

import pytest

from cachegen.engines.vllm.config import read_config
from cachegen.policy.fixed import Fixed
from cachegen.policy.min_ttft import MinTTFT


def test_a_store_is_enough() -> None:
    config = read_config({"store": "folder"})
    assert (config.store, config.chunk_tokens, config.level) == ("folder", 256, None)
    assert config.is_saving and config.is_loading and config.accepts_inexact
    assert isinstance(config.controller(), MinTTFT)
    assert config.stored_levels("medium") == ("medium",)


@pytest.mark.parametrize(
    ("role", "saving", "loading"),
    [("kv_both", True, True), ("kv_producer", True, False), ("kv_consumer", False, True)],
)
def test_roles(role: str, saving: bool, loading: bool) -> None:
    config = read_config({"store": "folder"}, role=role)
    assert (config.is_saving, config.is_loading) == (saving, loading)


def test_levels() -> None:
    exact = read_config({"store": "folder", "level": "lossless"})
    assert exact.stored_levels("medium") == ("lossless",)
    assert exact.controller() == Fixed("lossless")
    assert exact.is_lossless and not exact.accepts_inexact
    assert read_config({"store": "s", "slo_s": 2}).stored_levels("medium") is None
    several = read_config({"store": "s", "level": "low", "levels": ["low", "high"]})
    assert several.stored_levels("medium") == ("low", "high")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({}, "expected 'store'"),
        ({"store": ""}, "expected 'store'"),
        ({"store": 3}, "expected store as a string, got 3"),
        (
            {"store": "s", "levle": "high"},
            r"'levle' \(did you mean 'level'\?\); known keys are sto",
        ),
        ({"store": "s", "colour": 1}, "unknown key 'colour'; known keys are store, profile, level"),
        ({"store": "s", "is_saving": True}, "unknown key 'is_saving'"),
        ({"store": "s", "level": "sharp"}, "expected a level among lowest, .*got 'sharp'"),
        ({"store": "s", "level": "low", "levels": ["high"]}, "'low' among levels"),
        ({"store": "s", "levels": []}, "expected levels as names"),
        ({"store": "s", "policy": "best"}, "expected a policy among min_ttft, algorithm1"),
        ({"store": "s", "chunk_tokens": 100}, "multiple of 64, got 100"),
        ({"store": "s", "chunk_tokens": True}, "expected chunk_tokens as a positive whole"),
        ({"store": "s", "max_loads": 0}, "expected max_loads above 0"),
        ({"store": "s", "slo_s": -1}, "expected slo_s of at least 0"),
        ({"store": "s", "slo_s": 1, "level": "low"}, "a level or a deadline"),
        ({"store": "s", "inexact": 1}, "expected inexact as true or false"),
    ],
)
def test_what_is_refused(extra: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_config(extra)
