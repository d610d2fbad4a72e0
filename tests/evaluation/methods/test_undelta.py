"""The paper's encoder without deltas: caches come back within half a bin of their token's scale."""

import pytest
import torch

from cachegen.codec.paper import bins
from cachegen.evaluation.methods import undelta
from tests.evaluation.methods.caches import DTYPES, LAYERS, make_cache, roundtrip

STEP = 0.05


@pytest.mark.parametrize("shapes", sorted(LAYERS))
@pytest.mark.parametrize("dtype", DTYPES)
def test_errors_are_at_most_half_a_bin(shapes, dtype):
    kv = make_cache(shapes, 130, dtype)
    coder = undelta.coder([make_cache(shapes, 100, dtype, seed=seed) for seed in (1, 2)], step=STEP)
    _, found = roundtrip(coder, kv)
    rounding = {torch.bfloat16: 2**-8, torch.float16: 2**-10, torch.float32: 1e-6}[dtype]
    for plane, other, width in zip(
        kv.planes(), found.planes(), bins(kv.geometry, STEP), strict=True
    ):
        largest = plane.float().abs().amax(dim=(0, 2), keepdim=True)
        error = (plane.float() - other.float()).abs() / largest
        assert float(error.max()) <= 1.01 * (float(width) / 2) + rounding


def test_coarser_bins_take_fewer_bytes():
    kv = make_cache("gqa", 200, torch.bfloat16)
    samples = [make_cache("gqa", 200, torch.bfloat16, seed=1)]
    sizes = [len(undelta.coder(samples, step=step).encode(kv, range(200))) for step in (0.02, 0.2)]
    assert sizes[0] > 1.3 * sizes[1]


def test_values_that_no_table_holds_are_escaped():
    samples = [make_cache("gqa", 50, torch.bfloat16, scale=0.0)]
    kv = make_cache("gqa", 50, torch.bfloat16, seed=2)
    _, found = roundtrip(undelta.coder(samples, step=STEP), kv)
    assert all(torch.isfinite(plane).all() for plane in found.planes())
    assert float((found.keys[0].float() - kv.keys[0].float()).abs().max()) < 0.2
