"""Bits per value of what is really coded."""

from dataclasses import replace

import pytest

from cachegen.bitstream.chunk import encode
from cachegen.bitstream.rates import with_rates
from cachegen.codec.levels import Quality
from cachegen.codec.profile import read_profile


def measured(profile):
    """The profile as calibration leaves it, with two domains."""
    quality = Quality(kl=0.01, rel_ppl=0.0, top1=1.0, num_tokens=5)
    levels = tuple(
        replace(level, quality=quality, domains={"a": quality, "b": quality})
        for level in profile.levels
    )
    return replace(profile, levels=levels)


def test_bits_are_those_of_the_files(samples):
    sample = samples["transform"]
    profile, told = measured(sample.profile), []
    pair = (sample.tokens, sample.kv)
    found = with_rates(profile, {"a": [pair, pair], "b": [pair]}, progress=told.append)
    for level in found.levels:
        data = encode(sample.kv, tokens=sample.tokens, profile=profile, level=level.name)
        bits = 8 * len(data) / sample.kv.num_values
        assert level.domains["a"].bits_per_value == pytest.approx(bits)
        assert level.quality.bits_per_value == pytest.approx(bits)
    assert told[-1].done == told[-1].total == 3 * len(found.levels)
    back = read_profile(found.file_bytes)
    assert [level.domains for level in back.levels] == [level.domains for level in found.levels]
    assert found.hash != profile.hash


def test_a_domain_without_contexts_stays_unknown(samples):
    sample = samples["transform"]
    profile = measured(sample.profile)
    assert with_rates(profile, {"a": []}) is profile
    found = with_rates(profile, {"a": [(sample.tokens, sample.kv)]})
    for level in found.levels:
        assert level.domains["a"].bits_per_value and level.domains["b"].bits_per_value is None
        assert level.quality.bits_per_value is None
