"""Codec `lossless`: patterns of bits that arithmetic would not keep."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cachegen.codec.codec import decode_chunk, encode_chunk
from cachegen.errors import BitstreamError
from cachegen.kvcache import DTYPES, KVCache

WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32}


def cache_of_words(words: np.ndarray, dtype: torch.dtype) -> KVCache:
    """Any bit patterns as the keys and values of one layer, (2 heads, tokens, 8)."""
    planes = [
        torch.from_numpy(part.copy().view(np.uint8)).view(dtype).view(2, -1, 8)
        for part in np.split(words, 2)
    ]
    return KVCache.from_layers([(planes[0], planes[1])])


@pytest.mark.parametrize("dtype", DTYPES)
def test_random_bits(assert_same_bits, dtype):
    rng = np.random.default_rng(0)
    top = 2 ** (8 * dtype.itemsize)
    words = rng.integers(0, top, 2 * 2 * 40 * 8, dtype=np.uint64).astype(WORDS[dtype.itemsize])
    kv = cache_of_words(words, dtype)
    assert_same_bits(decode_chunk(encode_chunk(kv, level="lossless")), kv)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_pattern_of_the_top_two_bytes(assert_same_bits, dtype):
    """NaN payloads, infinities, both zeros and denormals are all among them."""
    bits = 8 * min(dtype.itemsize, 2)
    words = np.arange(2**bits, dtype=np.uint32) << (8 * dtype.itemsize - bits)
    kv = cache_of_words(words.astype(WORDS[dtype.itemsize]), dtype)
    for level in ("lossless", "raw"):
        assert_same_bits(decode_chunk(encode_chunk(kv, level=level)), kv)


def test_smooth_values_shrink(make_cache):
    kv = make_cache("gqa", 600, torch.bfloat16)
    chunk = encode_chunk(kv, level="lossless")
    coded = sum(block.words.nbytes for block in chunk.blocks) + chunk.arrays["low_bytes"].nbytes
    assert coded < 0.75 * kv.size_bytes


@pytest.mark.parametrize("name", ("low_bytes", "supports", "frequencies", "table_ids"))
def test_damaged_arrays_are_refused(make_cache, name):
    chunk = encode_chunk(make_cache("windowed", 30, torch.bfloat16), level="lossless")
    missing = {key: array for key, array in chunk.arrays.items() if key != name}
    shorter = chunk.arrays | {name: chunk.arrays[name][:-1]}
    with pytest.raises(BitstreamError, match=f"{name}: the array is missing"):
        decode_chunk(replace(chunk, arrays=missing))
    with pytest.raises(BitstreamError, match=r"expected .*, got"):
        decode_chunk(replace(chunk, arrays=shorter))


def test_ids_of_tables_that_do_not_exist_are_refused(make_cache):
    chunk = encode_chunk(make_cache("gqa", 30, torch.bfloat16), level="lossless")
    chunk.arrays["table_ids"][5] = 200
    with pytest.raises(BitstreamError, match="table 200"):
        decode_chunk(chunk)


def test_blocks_of_another_shape_or_number_are_refused(make_cache):
    chunk = encode_chunk(make_cache("gqa", 30, torch.bfloat16), level="lossless")
    other = encode_chunk(make_cache("gqa", 29, torch.bfloat16), level="lossless")
    for blocks in ((), other.blocks, chunk.blocks * 2):
        with pytest.raises(BitstreamError, match=r"blocks|shape"):
            decode_chunk(replace(chunk, blocks=blocks))
