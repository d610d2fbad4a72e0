import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cachegen.evaluation.methods.exact import lossless_coder, raw_coder, zstd_coders
from cachegen.evaluation.methods.planes import Reader
from tests.evaluation.methods.caches import DTYPES, LAYERS, bits, make_cache, roundtrip, tokens_of


@settings(max_examples=10, deadline=None)
@given(
    shapes=st.sampled_from(sorted(LAYERS)),
    dtype=st.sampled_from(DTYPES),
    num_tokens=st.integers(1, 40),
    scale=st.sampled_from([0.0, 1e-30, 1.0, 1e30]),
)
def test_every_bit_comes_back(shapes, dtype, num_tokens, scale):
    kv = make_cache(shapes, num_tokens, dtype, scale=scale)
    for coder in (raw_coder(kv.geometry), lossless_coder(), *zstd_coders(kv.geometry)):
        _, found = roundtrip(coder, kv)
        assert bits(found) == bits(kv), coder.method


def test_raw_counts_the_elements_and_nothing_else():
    kv = make_cache("gqa", 30, torch.bfloat16)
    data, _ = roundtrip(raw_coder(kv.geometry), kv)
    assert len(data) == 2 * kv.num_values


def test_both_shuffles_and_lossless_save_bytes():
    kv = make_cache("gqa", 300, torch.bfloat16)
    sizes = [len(coder.encode(kv, tokens_of(kv))) for coder in zstd_coders(kv.geometry)]
    assert max(sizes) < 0.95 * kv.size_bytes
    assert len(lossless_coder().encode(kv, tokens_of(kv))) < 0.95 * kv.size_bytes


def test_bytes_that_are_missing_or_left_are_refused():
    kv = make_cache("mqa", 8, torch.float16)
    coder, tokens = raw_coder(kv.geometry), tokens_of(kv)
    data = coder.encode(kv, tokens)
    with pytest.raises(ValueError, match="more bytes"):
        coder.decode(data[:-1], tokens)
    with pytest.raises(ValueError, match="1 more bytes"):
        coder.decode(data + b"x", tokens)


def test_a_reader_gives_the_rest_once():
    reader = Reader(b"abc")
    assert (reader.take(1), reader.rest(), reader.rest()) == (b"a", b"bc", b"")
