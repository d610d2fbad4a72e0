import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cachegen.codec.blocks import ESCAPE, DecodedBlock
from cachegen.codec.symbols import (
    DEAD_ZONE,
    LARGEST,
    Unrepresentable,
    clipped_symbols,
    quantise,
    to_integers,
    to_symbols,
)
from cachegen.codec.tables import table_frequencies
from cachegen.errors import BitstreamError


def decoded(symbols):
    width = symbols.shape[1]
    return DecodedBlock(symbols, width, np.arange(width), np.zeros(0, dtype=np.uint8))


def tables_of(*supports):
    counts = np.zeros((len(supports), 256), dtype=np.int64)
    for row, (low, high) in zip(counts, supports, strict=True):
        row[low : high + 1] = 10
    return table_frequencies(counts, margin=0, escape=True)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1e5, 1e5, width=32), max_size=30))
def test_quantise_floors_the_magnitude_plus_the_rounding(values):
    scaled = torch.tensor(values, dtype=torch.float32)
    for rounding in (DEAD_ZONE, 0.5):
        magnitude = np.abs(scaled.numpy()) + np.float32(rounding)
        expected = np.copysign(np.floor(magnitude), scaled.numpy()).astype(np.int32)
        assert quantise(scaled, rounding=rounding).tolist() == expected.tolist()


@pytest.mark.parametrize("value", (float("nan"), float("inf"), -float("inf"), 2.0 * LARGEST))
def test_what_has_no_integer_is_unrepresentable(value):
    with pytest.raises(Unrepresentable):
        quantise(torch.tensor([[0.0, value]]))


def test_symbols_outside_their_table_escape():
    frequencies = tables_of((127, 129), (100, 150))
    integers = np.array([[-2, -2], [1, 30], [2, 23], [0, -28]], dtype=np.int32)
    symbols, escapes = to_symbols(integers, np.array([0, 1]), frequencies)
    assert symbols.tolist() == [[0, 126], [129, 0], [0, 151 - 151], [128, 100]]
    assert escapes.tolist() == [-2, 30, 2, 23]


def test_the_whole_alphabet():
    frequencies = tables_of((1, 255))
    integers = np.array([[-128], [-127], [0], [127], [128]], dtype=np.int32)
    symbols, escapes = to_symbols(integers, np.array([0]), frequencies)
    assert symbols.ravel().tolist() == [ESCAPE, 1, 128, 255, ESCAPE]
    assert escapes.tolist() == [-128, 128]
    assert clipped_symbols(integers).tolist() == symbols.tolist()


@settings(max_examples=40, deadline=None)
@given(
    integers=st.lists(
        st.lists(st.integers(-400, 400) | st.just(0), min_size=6, max_size=6), max_size=12
    ),
    widths=st.sampled_from(([6], [1, 5], [2, 0, 3, 1], [0, 6, 0])),
)
def test_integers_come_back_plane_by_plane(integers, widths):
    matrix = np.array(integers, dtype=np.int32).reshape(-1, 6)
    ids = np.array([0, 1, 0, 1, 1, 0])
    symbols, escapes = to_symbols(matrix, ids, tables_of((120, 136), (1, 255)))
    planes = list(to_integers(decoded(symbols), escapes, widths))
    assert [plane.shape[1] for plane in planes] == widths
    assert torch.cat(planes, dim=1).int().tolist() == matrix.tolist()


@pytest.mark.parametrize("num_escapes", (0, 1, 3))
def test_every_escape_symbol_needs_its_value(num_escapes):
    symbols = np.array([[0, 128], [0, 127]], dtype=np.uint8)
    with pytest.raises(BitstreamError, match="expected 2 escapes"):
        list(to_integers(decoded(symbols), np.ones(num_escapes, dtype=np.int8), [2]))
