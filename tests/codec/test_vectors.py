import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cachegen.codec.vectors import bfloat16_above, from_bits, largest, quantise_vectors, to_bits


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 2.0**127, width=32), min_size=1, max_size=20))
def test_the_least_bfloat16_above(values):
    numbers = torch.tensor(values, dtype=torch.float32)
    above = bfloat16_above(numbers)
    assert (above >= numbers).all()
    assert above.to(torch.bfloat16).float().equal(above)
    below = torch.from_numpy(((above.view(torch.int32).numpy() >> 16) - 1) << 16)
    assert (below.view(torch.float32) < numbers)[numbers > 0].all()


def test_bits_come_back():
    scales = torch.tensor([0.0, 1e-40, 1.0, 1.5, 3.38e38]).to(torch.bfloat16).float()
    bits = to_bits(scales)
    assert bits.dtype == np.uint16
    assert from_bits(bits).equal(scales)


def test_largest_of_nothing_is_zero():
    assert largest(torch.empty((3, 2, 0))).tolist() == [[[0.0], [0.0]]] * 3
    assert largest(torch.tensor([[-3.0, 2.0]])).tolist() == [[3.0]]


def test_zero_vectors_have_no_scale():
    scales, codes = quantise_vectors(torch.tensor([[0.0, -0.0], [1e-45, 0.0], [0.0, -127.0]]))
    assert scales.flatten().tolist() == [0.0, 0.0, 1.0]
    assert codes.tolist() == [[0, 0], [0, 0], [0, -127]]
