from __future__ import annotations

from dataclasses import replace
from itertools import count

import pytest
import torch

from cachegen.evaluation.coder import Coder
from cachegen.evaluation.gate import GateError, check
from cachegen.evaluation.methods.exact import raw_coder
from cachegen.evaluation.methods.presets import profile_coder
from cachegen.kvcache import KVCache


@pytest.fixture
def kv() -> KVCache:
    planes = torch.randn((4, 2, 60, 8), generator=torch.Generator().manual_seed(0)) + 0.5
    return KVCache(tuple(planes[0::2]), tuple(planes[1::2]), 60)


TOKENS = [place % 50 for place in range(60)]


def decoding(kv: KVCache, change) -> Coder:
    """Raw, but what is decoded is changed."""
    whole = raw_coder(kv.geometry)
    return replace(whole, decode=lambda data, tokens: change(whole.decode(data, tokens)))


def planes(kv: KVCache, change) -> KVCache:
    return KVCache.from_layers(
        [(change(k), change(v)) for k, v in zip(kv.keys, kv.values, strict=True)]
    )


def test_good_coders_pass(kv):
    check(raw_coder(kv.geometry), kv, TOKENS)
    check(decoding(kv, lambda kv: planes(kv, lambda p: p * 0.9)), kv, TOKENS)
    check(decoding(kv, lambda kv: planes(kv, lambda p: p[:, 10:30])), kv, TOKENS)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p: p.flip(0), "something else"),
        (lambda p: p * 0, "something else"),
        (lambda p: p.flip(1), "something else"),
        (lambda p: p * torch.nan, "differently"),
        (lambda p: p.half(), "another geometry"),
        (lambda p: p[:, :, :4], "another geometry"),
        (lambda p: p[:, :0], "gives back 0 tokens of 60"),
        (lambda p: p.repeat(1, 2, 1), "gives back 120 tokens of 60"),
        (lambda p: p[:, :20] * 0, "something else"),
        (lambda p: torch.full_like(p[:, :20], 9.0), "something else"),
    ],
)
def test_other_caches_are_refused(kv, change, reason):
    with pytest.raises(GateError, match=reason):
        check(decoding(kv, lambda kv: planes(kv, change)), kv, TOKENS)


def test_what_differs_each_time_is_refused(kv):
    calls = count(1)
    with pytest.raises(GateError, match="raw 32 decodes differently"):
        check(decoding(kv, lambda kv: planes(kv, lambda p: p + next(calls) * 1e-3)), kv, TOKENS)
    whole = raw_coder(kv.geometry)
    noisy = replace(
        whole,
        encode=lambda kv, tokens: whole.encode(kv, tokens) + bytes(next(calls)),
        decode=lambda data, tokens: whole.decode(data[: kv.size_bytes], tokens),
    )
    with pytest.raises(GateError, match="encodes differently"):
        check(noisy, kv, TOKENS)


def test_of_a_shorter_text_the_first_rows_count(kv):
    def other(p: torch.Tensor) -> torch.Tensor:
        return torch.cat([p[:, :1], torch.full_like(p[:, :9], 9.0)], dim=1)

    shorter = replace(decoding(kv, lambda kv: planes(kv, other)), is_shorter_text=True)
    check(shorter, kv, TOKENS)
    moved = decoding(kv, lambda kv: planes(kv, lambda p: 0 * p[:, :9]))
    with pytest.raises(GateError, match="something else"):
        check(replace(moved, is_shorter_text=True), kv, TOKENS)


def test_predicted_chunks_must_refuse_other_tokens(kv, make_transform_profile):
    profile = make_transform_profile(kv, steps={"low": 0.5, "high": 0.25})
    own = profile_coder("any", profile, profile.default_level)
    check(own, kv, TOKENS)
    forgiving = replace(own, decode=lambda data, tokens: own.decode(data, TOKENS))
    with pytest.raises(GateError, match="for other tokens"):
        check(forgiving, kv, TOKENS)
