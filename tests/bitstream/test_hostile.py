"""Damaged and forged chunks give a named error: never another exception, never a wrong cache."""

from __future__ import annotations

import struct
import tracemalloc

import pytest

from cachegen.bitstream.chunk import decode
from cachegen.errors import BitstreamError, CacheGenError

LIMIT = 1 << 20


def patched(data: bytes, offset: int, form: str, *values: int) -> bytes:
    chunk = bytearray(data)
    struct.pack_into("<" + form, chunk, offset, *values)
    return bytes(chunk)


def flipped(data: bytes, index: int) -> bytes:
    chunk = bytearray(data)
    chunk[index] ^= (0x01, 0x80, 0xFF, 0x10)[index % 4]
    return bytes(chunk)


def table_of(data: bytes) -> int:
    num_runs, level_size = struct.unpack_from("<HH", data, 44)
    return 144 + 24 * num_runs + level_size


def test_truncation_at_every_byte(sample):
    for size in range(len(sample.data)):
        with pytest.raises(BitstreamError) as caught:
            decode(sample.data[:size], profile=sample.profile, tokens=sample.tokens)
        assert caught.value.field


def test_every_flipped_byte_is_found(sample):
    for index in range(len(sample.data)):
        with pytest.raises(BitstreamError):
            decode(flipped(sample.data, index), profile=sample.profile, tokens=sample.tokens)


def test_trailing_bytes(sample, reseal):
    for tail in (b"\0", bytes(8), bytes(64)):
        with pytest.raises(BitstreamError, match="chunk_size at byte 16"):
            decode(sample.data + tail, profile=sample.profile, tokens=sample.tokens)
        with pytest.raises(BitstreamError, match=r"arrays at byte \d+: header and arrays take"):
            decode(reseal(sample.data + tail), profile=sample.profile, tokens=sample.tokens)


def test_resealing_leaves_a_sound_chunk_alone(sample, reseal):
    assert reseal(sample.data) == sample.data


def test_flipped_bytes_under_right_checksums_raise_nothing_else(sample, reseal):
    outcomes = set()
    for index in range(len(sample.data)):
        try:
            decode(
                reseal(flipped(sample.data, index)),
                profile=sample.profile,
                tokens=sample.tokens,
                max_bytes=LIMIT,
            )
        except CacheGenError as error:
            outcomes.add(type(error))
    assert BitstreamError in outcomes


FIXED_FIELDS = [
    (0, "4B", (0, 0, 0, 0), "magic at byte 0"),
    (4, "H", (0,), "version at byte 4: .*save the context again"),
    (4, "H", (2,), "version .*expected `layers` exactly in version 2"),
    (4, "H", (3,), "version at byte 4: .*newer cachegen"),
    (6, "B", (7,), "codec at byte 6"),
    (7, "B", (5,), "dtype at byte 7"),
    (8, "I", (143,), "header_size at byte 8"),
    (8, "I", (2**20 + 8,), "header_size at byte 8"),
    (8, "I", (2**32 - 8,), "header_size at byte 8"),
    (12, "I", (4097,), "num_arrays at byte 12"),
    (12, "I", (4096,), "arrays"),
    (12, "I", (0,), "header_size|arrays"),
    (32, "Q", (2**48 + 1,), "start at byte 32"),
    (32, "Q", (2**64 - 1,), "start at byte 32"),
    (40, "I", (2**24 + 1,), "num_tokens at byte 40"),
    (156, "I", (2**24,), r"geometry\[0\].tokens_held at byte 156"),
    (40, "I", (0,), "tokens_held"),
    (44, "H", (0,), "num_runs at byte 44"),
    (44, "H", (65535,), "geometry"),
    (46, "H", (0,), "level_size at byte 46"),
    (46, "H", (65,), "level_size at byte 46"),
    (144, "I", (0,), r"geometry\[0\].layers at byte 144"),
    (144, "I", (4097,), r"geometry\[0\].layers at byte 144"),
    (148, "I", (2**32 - 1,), "values per token"),
    (148, "I", (2**20,), "geometry at byte 144: .* exceed the limit"),
    (156, "I", (2**32 - 1,), r"geometry\[0\].tokens_held at byte 156"),
    (160, "HH", (65535, 65535), "geometry at byte 144: .* exceed the limit"),
    (160, "HH", (0, 0), "values per token"),
    (164, "I", (1,), r"geometry\[0\].padding at byte 164"),
]


@pytest.mark.parametrize(("offset", "form", "values", "message"), FIXED_FIELDS)
def test_forged_header_fields(sample, reseal, offset, form, values, message):
    forged = reseal(patched(sample.data, offset, form, *values))
    with pytest.raises(BitstreamError, match=message):
        decode(forged, profile=sample.profile, tokens=sample.tokens, max_bytes=LIMIT)


def test_forged_chunk_size(sample):
    for size in (0, len(sample.data) - 1, len(sample.data) + 1, 2**64 - 1):
        with pytest.raises(BitstreamError, match="chunk_size at byte 16"):
            decode(
                patched(sample.data, 16, "Q", size), profile=sample.profile, tokens=sample.tokens
            )


@pytest.mark.parametrize(
    ("place", "form", "values", "field"),
    [
        (0, "B", (99,), "name"),
        (2, "B", (8,), "type"),
        (2, "B", (7,), "type"),
        (3, "B", (0,), "ndim"),
        (3, "B", (3,), "ndim"),
        (12, "I", (1,), "padding"),
    ],
)
def test_forged_table_entries(sample, reseal, place, form, values, field):
    table = table_of(sample.data)
    forged = reseal(patched(sample.data, table + place, form, *values))
    with pytest.raises(BitstreamError, match=rf"arrays\[0\].{field} at byte {table + place}"):
        decode(forged, profile=sample.profile, tokens=sample.tokens)


@pytest.mark.parametrize("dims", [(2**32 - 1, 1), (0, 1), (2**31, 2**31), (2**32 - 1, 2**32 - 1)])
def test_forged_array_sizes(sample, reseal, dims):
    forged = reseal(patched(sample.data, table_of(sample.data) + 4, "II", *dims))
    with pytest.raises(BitstreamError, match="arrays"):
        decode(forged, profile=sample.profile, tokens=sample.tokens)


def test_an_entry_out_of_order(samples, reseal):
    data = samples["packed"].data
    table = table_of(data)
    first, second = data[table : table + 24], data[table + 24 : table + 48]
    swapped = data[:table] + second + first + data[table + 48 :]
    with pytest.raises(BitstreamError, match=r"arrays\[1\].*ascending"):
        decode(reseal(swapped))
    doubled = data[:table] + first + first + data[table + 48 :]
    with pytest.raises(BitstreamError, match=r"arrays\[1\].*ascending"):
        decode(reseal(doubled))


def test_padding_must_be_zero(samples, reseal):
    data = samples["packed"].data
    header_size = struct.unpack_from("<I", data, 8)[0]
    scales = struct.unpack_from("<I", data, table_of(data) + 4)[0]
    assert 2 * scales % 8
    forged = patched(data, header_size + 2 * scales, "B", 1)
    with pytest.raises(BitstreamError, match=f"scales at byte {header_size}: the padding"):
        decode(reseal(forged))


def test_split_runs_are_refused(samples, reseal):
    data = samples["raw"].data
    header_size = struct.unpack_from("<I", data, 8)[0]
    twice = data[144:168]
    split = patched(data[:168] + twice + data[168:], 44, "H", 3)
    split = patched(split, 8, "I", header_size + 24)
    with pytest.raises(BitstreamError, match=r"geometry\[1\].*must be one"):
        decode(reseal(split))


BLOCK_SHAPES = [
    (0, 2**32 - 1),
    (0, 0),
    (1, 2**32 - 1),
    (1, 0),
    (2, 7),
    (2, 0),
    (3, 0),
    (4, 0),
    (5, 1),
]


@pytest.mark.parametrize(("index", "value"), BLOCK_SHAPES)
@pytest.mark.parametrize("kind", ["lossless", "plain", "adaptive", "paper-profile", "transform"])
def test_forged_block_shapes(samples, reseal, kind, index, value):
    sample = samples[kind]
    header_size = struct.unpack_from("<I", sample.data, 8)[0]
    forged = reseal(patched(sample.data, header_size + 4 * index, "I", value))
    with pytest.raises(BitstreamError, match=r"blocks\[0\]|shape"):
        decode(forged, profile=sample.profile, tokens=sample.tokens)


def test_a_bomb_allocates_nothing(samples, reseal):
    """A tiny chunk that claims the largest planes is turned away before anything is made."""
    forged = reseal(patched(samples["plain"].data, 144, "IIIIHH", 4000, 4096, 0, 0, 1, 0))
    tracemalloc.start()
    with pytest.raises(BitstreamError, match=r"geometry at byte 144: .* exceed the limit"):
        decode(forged, max_bytes=LIMIT)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_forged_numbers_of_tokens(sample, reseal):
    held = [156 + 24 * index for index in range(struct.unpack_from("<H", sample.data, 44)[0])]
    forged = patched(sample.data, 40, "I", 2**24)
    for offset in held:
        forged = patched(forged, offset, "I", 2**24)
    with pytest.raises(BitstreamError, match=r"geometry at byte 144: .* exceed the limit"):
        decode(reseal(forged), profile=sample.profile, tokens=sample.tokens, max_bytes=LIMIT)


@pytest.mark.parametrize("data", [b"", b"C", b"CGKV", bytes(143), bytes(144), b"\x80\x04K*."])
def test_what_is_no_chunk(data):
    with pytest.raises(BitstreamError):
        decode(data)
