import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cachegen.evaluation.methods.grids import dequantise, quantise


@settings(max_examples=50, deadline=None)
@given(levels=st.integers(2, 256), seed=st.integers(0, 99), scale=st.sampled_from([1e-2, 1.0, 50]))
def test_values_come_back_within_half_a_step(levels, seed, scale):
    values = torch.randn(4, 10, generator=torch.Generator().manual_seed(seed)) * scale
    codes, step, low = quantise(values, 1, levels)
    found = dequantise(codes, step, low)
    assert codes.max() <= levels - 1
    # The ends move by what rounding to 11 bits does to the least value and, times codes, the step.
    slack = 2**-10 * (low.abs() + (levels - 1) * step).float()
    assert bool(((found - values).abs() <= 0.5 * step.float() + slack).all())


def test_a_group_of_equal_values_has_no_step():
    codes, step, low = quantise(torch.full((2, 5), 3.0), 1, 4)
    assert not codes.any() and not step.any()
    assert torch.equal(dequantise(codes, step, low), torch.full((2, 5), 3.0))


def test_what_float16_cannot_hold_saturates():
    codes, step, low = quantise(torch.tensor([[-1e6, 0.0, 1e6]]), 1, 256)
    assert bool(torch.isfinite(dequantise(codes, step, low)).all())
