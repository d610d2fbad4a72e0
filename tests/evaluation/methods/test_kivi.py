import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cachegen.evaluation.methods.kivi import kivi_coders
from tests.evaluation.methods.caches import DTYPES, LAYERS, bits, error, make_cache, roundtrip


def expected_bytes(kv, num_bits: int) -> int:
    """Counted on its own: codes, 4 bytes for each group, and what keeps its own elements."""
    total, tokens = 0, kv.num_tokens
    for index, plane in enumerate(kv.planes()):
        heads, _, dim = plane.shape
        if index % 2 == 0:
            coded = tokens // 128 * 128
            groups = heads * dim * coded // 32
        else:
            coded = max(0, tokens - 128)
            groups = heads * coded * dim // max(n for n in range(1, 33) if dim % n == 0)
        total += -(-coded * heads * dim * num_bits // 8) + 4 * groups
        total += (tokens - coded) * heads * dim * plane.element_size()
    return total


@settings(max_examples=25, deadline=None)
@given(
    shapes=st.sampled_from(sorted(LAYERS)),
    dtype=st.sampled_from(DTYPES),
    num_tokens=st.sampled_from([1, 127, 128, 129, 255, 256, 300]),
)
def test_bytes_are_those_of_the_formula(shapes, dtype, num_tokens):
    kv = make_cache(shapes, num_tokens, dtype)
    for coder in kivi_coders(kv.geometry):
        data, found = roundtrip(coder, kv)
        assert len(data) == expected_bytes(kv, int(coder.level))
        assert error(kv, found) < {"4": 0.01, "2": 0.2}[coder.level]


def test_two_bits_cost_three_and_the_last_values():
    kv = make_cache("gqa", 512, torch.bfloat16)
    sizes = {
        c.level: 8 * len(c.encode(kv, [0] * 512)) / kv.num_values for c in kivi_coders(kv.geometry)
    }
    assert sizes["2"] == pytest.approx(3 + (16 - 3) * 128 / 512 / 2)
    assert sizes["4"] == pytest.approx(5 + (16 - 5) * 128 / 512 / 2)


def test_the_last_tokens_keep_their_bits():
    kv = make_cache("gqa", 300, torch.float16)
    for coder in kivi_coders(kv.geometry):
        _, found = roundtrip(coder, kv)
        for index, (before, after) in enumerate(zip(kv.planes(), found.planes(), strict=True)):
            first = 256 if index % 2 == 0 else 172
            assert torch.equal(before[:, first:], after[:, first:])
            assert not torch.equal(before[:, :first], after[:, :first])


def test_short_contexts_are_kept_whole():
    kv = make_cache("mixed", 100, torch.bfloat16)
    for coder in kivi_coders(kv.geometry):
        data, found = roundtrip(coder, kv)
        assert bits(found) == bits(kv) and len(data) == kv.size_bytes


def test_an_outlying_channel_of_keys_costs_the_others_nothing():
    kv = make_cache("gqa", 128, torch.float32)
    kv.keys[0][0, :, 5] *= 1000
    coder = kivi_coders(kv.geometry)[0]
    _, found = roundtrip(coder, kv)
    others = [channel for channel in range(64) if channel != 5]
    lost = (found.keys[0][0][:, others] - kv.keys[0][0][:, others]).square().mean()
    assert lost < 0.01 * kv.keys[0][0][:, others].square().mean()
