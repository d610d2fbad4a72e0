import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cachegen.codec.rope import Rope, RopeMap, check_fits, rotate, rotations
from cachegen.kvcache import Geometry, PlaneShape


def rotated_slowly(rows, rope, positions, *, inverse):
    """Pairs as complex numbers, in float64."""
    rows, pairs = rows.double().numpy().copy(), len(rope.inverse_frequencies)
    for token, position in enumerate(positions):
        for pair, frequency in enumerate(rope.inverse_frequencies):
            a, b = (2 * pair, 2 * pair + 1) if rope.interleaved else (pair, pair + pairs)
            turn = np.exp((-1j if inverse else 1j) * float(position) * frequency)
            turned = (rows[token, ..., a] + 1j * rows[token, ..., b]) * turn
            rows[token, ..., a], rows[token, ..., b] = turned.real, turned.imag
    return rows


@pytest.mark.parametrize("interleaved", (False, True))
@pytest.mark.parametrize("inverse", (False, True))
@pytest.mark.parametrize("shape", ((6, 8), (6, 3, 8), (6, 2, 3, 8), (0, 2, 8)))
def test_against_complex_numbers(interleaved, inverse, shape):
    rope = Rope((1.0, 0.3, 0.01), interleaved)
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(100, 100 + shape[0])
    expected = rotated_slowly(rows, rope, positions, inverse=inverse)
    rotate(rows, rope, positions, inverse=inverse)
    assert np.allclose(rows.numpy(), expected, atol=2e-5)


@settings(max_examples=40, deadline=None)
@given(
    frequencies=st.lists(st.floats(0, 3, width=32), max_size=4),
    interleaved=st.booleans(),
    first=st.integers(0, 1 << 20),
)
def test_the_two_directions_undo_each_other(frequencies, interleaved, first):
    rope = Rope(tuple(frequencies), interleaved)
    rows = torch.randn((9, 2, 8), generator=torch.Generator().manual_seed(first))
    turned = rows.clone()
    positions = torch.arange(first, first + 9)
    rotate(turned, rope, positions, inverse=True)
    rotate(turned, rope, positions, inverse=False)
    assert torch.allclose(turned, rows, atol=3e-6)
    assert turned[..., rope.rotated_dims :].equal(rows[..., rope.rotated_dims :])


def test_planes_of_one_rope_share_its_angles():
    rope = RopeMap((Rope((1.0,)), Rope((0.5, 0.1), True)), (0, None, 1, None, 0, None))
    found = rotations(rope, 3, 8)
    assert [None if turn is None else turn.cos.shape for turn in found] == [
        (5, 1), None, (5, 2), None, (5, 1), None,
    ]  # fmt: skip
    assert found[0] is found[4]
    assert not found[0].interleaved and found[2].interleaved
    assert torch.allclose(found[2].sin[:, 0], torch.sin(torch.arange(3, 8) * 0.5))


def test_rotations_must_fit():
    geometry = Geometry((PlaneShape(2, 4), PlaneShape(2, 6)), torch.float32)
    check_fits(RopeMap((Rope((1.0, 0.1)),), (0, None)), geometry)
    with pytest.raises(ValueError, match="rotations of 2 planes, got 1"):
        check_fits(RopeMap.none(1), geometry)
    with pytest.raises(ValueError, match="plane 0: 6 dimensions turn"):
        check_fits(RopeMap((Rope((1.0, 0.1, 0.01)),), (0, 0)), geometry)
