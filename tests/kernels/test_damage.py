"""Damaged and hostile input gives named errors, the same ones from every kernel set."""

from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachegen.errors import BitstreamError
from cachegen.kernels import CodedBlock, _native, cpu, reference


def outcome(kernel_set, block, coded, **extra):
    try:
        return block.decode(kernel_set, coded, **extra).tobytes()
    except BitstreamError as error:
        return str(error)


def changed(coded, *, words=None, sizes=None):
    return CodedBlock(
        words=coded.words if words is None else words, sizes=coded.sizes if sizes is None else sizes
    )


@pytest.fixture
def block(make_block):
    return make_block(9, 4, lanes=8, rows_per_substream=5, groups_per_substream=3)


@pytest.fixture
def coded(block):
    return block.encode(reference)


def test_every_flipped_word_is_found_and_named_alike(kernel_set, block, coded):
    rng = np.random.default_rng(0)
    for position in range(coded.words.size):
        words = coded.words.copy()
        words[position] ^= 1 << rng.integers(16)
        damaged = changed(coded, words=words)
        expected = outcome(reference, block, damaged)
        assert isinstance(expected, str)
        assert outcome(kernel_set, block, damaged) == expected


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_words_give_one_outcome(make_block, isas, data):
    lanes = data.draw(st.sampled_from((8, 16, 32)))
    block = make_block(12, 5, lanes=lanes, rows_per_substream=7, groups_per_substream=1)
    coded = block.encode(reference)
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    words = coded.words.copy()
    end = words.size - 32
    first = data.draw(st.integers(0, end - 1))
    words[first:end] = rng.integers(0, 1 << 16, end - first, dtype=np.uint16)
    damaged = changed(coded, words=words)
    expected = outcome(reference, block, damaged)
    for isa in isas:
        assert outcome(cpu, block, damaged, isa=isa, threads=2) == expected


def test_every_truncation(kernel_set, block, coded):
    for length in range(coded.words.size):
        with pytest.raises(BitstreamError, match=r"words: .* make"):
            block.decode(kernel_set, changed(coded, words=coded.words[:length]))


def test_sizes_that_move_words_between_substreams(kernel_set, block, coded):
    for moved in (1, 2, 16):
        sizes = coded.sizes.copy()
        sizes[:2] += np.array([moved, -moved]).astype(np.uint32)
        with pytest.raises(BitstreamError, match="substream 0 does not end"):
            block.decode(kernel_set, changed(coded, sizes=sizes))
        sizes[:2] -= 2 * np.array([moved, -moved]).astype(np.uint32)
        with pytest.raises(BitstreamError, match=r"substream 0 (needs more|does not end)"):
            block.decode(kernel_set, changed(coded, sizes=sizes))


def test_sizes_that_do_not_fit(kernel_set, block, coded):
    with pytest.raises(BitstreamError, match="sizes: 3 sizes for 4 substreams"):
        block.decode(kernel_set, changed(coded, sizes=coded.sizes[:3]))
    sizes = coded.sizes.copy()
    sizes[0] = 0xFFFFFFFF
    with pytest.raises(BitstreamError, match="words: "):
        block.decode(kernel_set, changed(coded, sizes=sizes))


def test_a_substream_shorter_than_its_states(kernel_set, block, coded):
    sizes = coded.sizes.copy()
    sizes[0], sizes[1] = 15, sizes[0] + sizes[1] - 15
    with pytest.raises(BitstreamError, match="substream 0 has fewer words"):
        block.decode(kernel_set, changed(coded, sizes=sizes))


def test_states_that_are_too_low(kernel_set, block, coded):
    words = coded.words.copy()
    words[int(coded.sizes[0]) + 1] = 0
    with pytest.raises(BitstreamError, match=r"substream 1 has an initial state below"):
        block.decode(kernel_set, changed(coded, words=words))


def test_substreams_that_run_dry(kernel_set, make_block):
    block = make_block(50, 1, lanes=32)
    coded = block.encode(kernel_set)
    short = int(coded.sizes[0]) - 200
    words = np.concatenate([coded.words[:short], np.zeros(32, np.uint16)])
    damaged = changed(coded, words=words, sizes=np.array([short], np.uint32))
    with pytest.raises(BitstreamError, match="substream 0 needs more words"):
        block.decode(kernel_set, damaged)


def test_padding_that_is_not_zero(kernel_set, block, coded):
    words = coded.words.copy()
    words[-1] = 1
    with pytest.raises(BitstreamError, match="padding"):
        block.decode(kernel_set, changed(coded, words=words))


def test_the_first_damaged_substream_is_named(kernel_set, make_block):
    block = make_block(8, 40, rows_per_substream=4, groups_per_substream=1)
    coded = block.encode(kernel_set)
    starts = np.cumsum(coded.sizes) - coded.sizes
    words = coded.words.copy()
    words[starts[[77, 30, 29, 33]] + 1] = 0
    for threads in (1, 2, 7):
        with pytest.raises(BitstreamError, match="substream 29 "):
            block.decode(kernel_set, changed(coded, words=words), threads=threads)


def test_threads_do_not_decide_which_damaged_substream_is_named(kernel_set, make_block):
    """One thread comes to the later of two at once, while another is on its way to the earlier."""
    block = make_block(256, 80, rows_per_substream=32, groups_per_substream=1)
    coded = block.encode(kernel_set)
    earlier, later = len(coded.sizes) // 5, len(coded.sizes) // 3
    starts = np.cumsum(coded.sizes) - coded.sizes
    words = coded.words.copy()
    words[starts[[earlier, later]] + 1] = 0
    for _ in range(10):
        with pytest.raises(BitstreamError, match=f"substream {earlier} "):
            block.decode(kernel_set, changed(coded, words=words), threads=2)


def test_a_damaged_substream_among_thousands_of_tables(kernel_set, make_block):
    block = make_block(8, 20, num_tables=2000, groups_per_substream=2)
    coded = block.encode(kernel_set)
    words = coded.words.copy()
    words[int(coded.sizes[:7].sum()) + 1] = 0
    with pytest.raises(BitstreamError, match="substream 7 has an initial state"):
        block.decode(kernel_set, changed(coded, words=words), threads=2)


def bad_tables(block):
    heavy = block.coding.frequencies.copy()
    heavy[1, 128] += 1
    lone = block.coding.frequencies.copy()
    lone[2] = 0
    lone[2, 128] = 4096
    high, negative = block.coding.table_ids.copy(), block.coding.table_ids.copy()
    high[5], negative[6] = 3, -1
    yield "frequencies: table 1 sums to 4097", block.with_(frequencies=heavy)
    yield "frequencies: table 2 has only one symbol", block.with_(frequencies=lone)
    yield "table_ids: column 5 names table 3 of 3", block.with_(table_ids=high)
    yield "table_ids: column 6 names table -1 of 3", block.with_(table_ids=negative)


def test_bad_tables(kernel_set, block, coded):
    for message, bad in bad_tables(block):
        with pytest.raises(BitstreamError, match=message):
            bad.decode(kernel_set, coded)
        with pytest.raises(ValueError, match=message):
            bad.encode(kernel_set)


def test_too_many_tables_a_substream(kernel_set, make_block):
    block = make_block(2, 150, num_tables=5000, groups_per_substream=128)
    wide = block.with_(
        groups_per_substream=150,
        table_ids=np.arange(block.symbols.shape[1], dtype=np.int32),
    )
    block = wide.with_(groups_per_substream=128)
    coded = block.encode(kernel_set)
    assert (block.decode(kernel_set, coded) == block.symbols).all()
    with pytest.raises(BitstreamError, match="table_ids: a substream uses 4800 tables"):
        wide.decode(kernel_set, changed(coded, sizes=np.array([coded.sizes.sum()], np.uint32)))
    with pytest.raises(ValueError, match="use fewer groups per substream"):
        wide.encode(kernel_set)


def test_a_symbol_without_frequency(kernel_set, make_block):
    for lanes, column in ((8, 3), (16, 15), (32, 31)):
        block = make_block(70, 3, lanes=lanes, rows_per_substream=9, groups_per_substream=1)
        symbols = block.symbols.copy()
        symbols[41:, column] = 255
        symbols[41, 2 * lanes :] = 255
        message = f"symbol 255 at row 41, column {column} has frequency 0"
        with pytest.raises(ValueError, match=message):
            block.with_(symbols=symbols).encode(kernel_set)


def test_mistaken_arguments(kernel_set, block, coded):
    table_ids, frequencies = block.coding.table_ids, block.coding.frequencies
    mistakes = (
        ({"lanes": 12}, ValueError, "lanes must be one of"),
        ({"lanes": 32, "table_ids": table_ids[:24]}, ValueError, "columns"),
        ({"rows_per_substream": 0}, ValueError, "at least 1"),
        ({"groups_per_substream": -1}, ValueError, "at least 1"),
        ({"symbols": block.symbols.astype(np.int64)}, TypeError, "symbols must be uint8"),
        ({"symbols": block.symbols.reshape(-1)}, ValueError, "2 dimensions"),
        ({"symbols": block.symbols[:, :8]}, ValueError, "8 columns, table_ids 32"),
        ({"table_ids": table_ids.astype(np.int64)}, TypeError, "table_ids must be int32"),
        ({"frequencies": frequencies[:, :255]}, ValueError, "frequencies must be"),
    )
    for change, error, message in mistakes:
        with pytest.raises(error, match=message):
            block.with_(**change).encode(kernel_set)
    with pytest.raises(ValueError, match="threads"):
        block.encode(kernel_set, threads=0)
    with pytest.raises(TypeError, match="words must be uint16"):
        block.decode(kernel_set, changed(coded, words=coded.words.astype(np.int32)))
    with pytest.raises(TypeError, match="sizes must be uint32"):
        block.decode(kernel_set, changed(coded, sizes=coded.sizes.astype(np.int32)))


def test_the_native_module_checks_for_itself(block, coded, isas):
    good = {
        "words": coded.words,
        "sizes": coded.sizes,
        "symbols": np.empty_like(block.symbols),
        **asdict(block.coding),
        "threads": 1,
        "isa": isas[0],
    }
    assert _native.decode(**good) == (0, 0)
    mistakes = [
        {"lanes": 9},
        {"lanes": 16, "symbols": np.empty((9, 40), np.uint8)},
        {"groups_per_substream": 0},
        {"rows_per_substream": 1},
        {"words": coded.words[:-1]},
        {"sizes": coded.sizes[:-1]},
        {"isa": "avx1024"},
        *(asdict(bad.coding) for _, bad in bad_tables(block)),
    ]
    for change in mistakes:
        with pytest.raises(ValueError):
            _native.decode(**good | change)
