"""Codecs `raw` and `packed`."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cachegen.codec.codec import decode_chunk, encode_chunk
from cachegen.errors import BitstreamError
from cachegen.kvcache import KVCache

# Rounding to the dtype itself, relative.
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("shapes", ("gqa", "mixed", "windowed"))
def test_packed_errs_by_half_a_scale_at_most(make_cache, dtype, shapes):
    kv = make_cache(shapes, 70, dtype, scale=3.0)
    chunk = encode_chunk(kv, level="packed")
    scales = (chunk.arrays["scales"].astype(np.uint32) << 16).view(np.float32)
    first = 0
    for plane, decoded in zip(kv.planes(), decode_chunk(chunk).planes(), strict=True):
        heads, tokens, _ = plane.shape
        own = torch.from_numpy(scales[first : first + heads * tokens].copy())
        first += heads * tokens
        bound = own.view(heads, tokens, 1) * 0.5001 + plane.float().abs() * ROUNDING[dtype]
        assert ((plane.float() - decoded.float()).abs() <= bound).all()
        largest = plane.float().abs().amax(-1).flatten()
        assert (own >= largest / 127 * 0.999999).all() and (own <= largest / 127 * 1.01).all()
    assert first == len(scales)


def test_packed_takes_a_byte_a_value_and_two_a_vector(make_cache):
    kv = make_cache("gqa", 64, torch.bfloat16)
    arrays = encode_chunk(kv, level="packed").arrays
    assert arrays["codes"].nbytes == kv.num_values
    assert arrays["scales"].nbytes == 2 * kv.num_values // 16


def test_packed_uses_the_whole_range_but_minus_128(make_cache):
    codes = encode_chunk(make_cache("gqa", 64), level="packed").arrays["codes"]
    assert (codes.min(), codes.max()) == (-127, 127)


def test_float16_saturates():
    plane = torch.full((1, 3, 4), 65504.0, dtype=torch.float16)
    decoded = decode_chunk(encode_chunk(KVCache.from_layers([(plane, plane)]), level="packed"))
    assert torch.isfinite(decoded.keys[0]).all()


def test_raw_is_the_planes_one_after_the_other(make_cache):
    kv = make_cache("mixed", 5, torch.bfloat16)
    rows = encode_chunk(kv, level="raw").arrays["rows"]
    planes = [plane.contiguous().view(torch.uint8).numpy().ravel() for plane in kv.planes()]
    assert rows.tobytes() == np.concatenate(planes).tobytes()


@pytest.mark.parametrize("change", (-1, 1))
@pytest.mark.parametrize(
    ("level", "name"), (("raw", "rows"), ("packed", "scales"), ("packed", "codes"))
)
def test_arrays_of_another_size_are_refused(make_cache, level, name, change):
    chunk = encode_chunk(make_cache("gqa", 6), level=level)
    array = np.resize(chunk.arrays[name], len(chunk.arrays[name]) + change)
    with pytest.raises(BitstreamError, match=name):
        decode_chunk(replace(chunk, arrays=chunk.arrays | {name: array}))
    with pytest.raises(BitstreamError, match="missing"):
        decode_chunk(replace(chunk, arrays={}))


@pytest.mark.parametrize("bits", (0x7F80, 0x7FC0, 0x8000, 0xFF80, 0xBF80))
def test_scales_that_no_encoder_writes_are_refused(make_cache, bits):
    chunk = encode_chunk(make_cache("gqa", 6), level="packed")
    chunk.arrays["scales"][3] = bits
    with pytest.raises(BitstreamError, match="scales"):
        decode_chunk(chunk)


def test_arrays_of_another_type_are_refused(make_cache):
    chunk = encode_chunk(make_cache("gqa", 6), level="raw")
    arrays = {"rows": chunk.arrays["rows"].astype(np.float32)}
    with pytest.raises(BitstreamError, match="uint8"):
        decode_chunk(replace(chunk, arrays=arrays))
