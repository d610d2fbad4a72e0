import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cachegen.evaluation.methods.kvserve import (
    heads_of_classes,
    kvserve_coders,
    looking_back,
    rotation,
)
from cachegen.kvcache import PlaneShape
from tests.evaluation.methods.caches import DTYPES, LAYERS, error, make_cache, roundtrip, text


def scores_of(kv) -> torch.Tensor:
    heads = sum(key.shape[0] for key in kv.keys)
    return torch.arange(heads).float().flip(0)


@settings(max_examples=15, deadline=None)
@given(
    shapes=st.sampled_from(sorted(LAYERS)),
    dtype=st.sampled_from(DTYPES),
    num_tokens=st.integers(1, 200),
)
def test_caches_come_back_the_nearer_the_more_levels(shapes, dtype, num_tokens):
    kv = make_cache(shapes, num_tokens, dtype)
    samples = [make_cache(shapes, 100, dtype, seed=seed) for seed in (1, 2)]
    errors, sizes = [], []
    for coder in kvserve_coders(samples, scores_of(kv), levels=(128, 16)):
        data, found = roundtrip(coder, kv)
        errors.append(error(kv, found))
        sizes.append(len(data))
    assert errors[0] < 0.001 and errors[1] < 0.05
    assert num_tokens < 20 or (errors[0] < errors[1] and sizes[0] > sizes[1])


@pytest.mark.parametrize("dim", [1, 6, 32, 48, 100])
def test_rotations_are_orthogonal_and_their_own(dim):
    found = rotation(3, PlaneShape(2, dim))
    assert torch.allclose(
        found @ found.transpose(1, 2), torch.eye(dim).expand(2, -1, -1), atol=1e-5
    )
    assert torch.equal(found, rotation(3, PlaneShape(2, dim)))
    assert dim == 1 or not torch.equal(found[0], found[1])


def test_a_rotation_spreads_an_outlier_evenly():
    vector = torch.zeros(64)
    vector[9] = 8.0
    assert torch.allclose((vector @ rotation(0, PlaneShape(1, 64))[0]).abs(), torch.ones(64))


def test_heads_that_look_back_least_are_in_the_lower_class():
    kv = make_cache("mixed", 4, torch.float32)
    classes = list(heads_of_classes(torch.tensor([5.0, 0.1, 4.0, 3.0, 0.2, 6.0, 7.0]), kv.geometry))
    assert [one.tolist() for one in classes[0]] == [[0], [1]]
    assert [one.tolist() for one in classes[2]] == [[0], []]
    assert [one.tolist() for one in classes[5]] == [[0, 2, 3], [1]]


def test_scores_of_a_model_are_shares_of_the_context(tiny):
    found = looking_back(tiny("gqa"), [text(100, 0), text(80, 1)])
    assert found.shape == (4,)
    assert bool(((found > 0) & (found < 1)).all())


def test_bytes_are_near_the_entropy_of_the_codes():
    """Tables that were learned elsewhere cost little: counted on its own, from the codes."""
    kv = make_cache("gqa", 400, torch.bfloat16)
    samples = [make_cache("gqa", 400, torch.bfloat16, seed=seed) for seed in (1, 2)]
    (coder,) = kvserve_coders(samples, scores_of(kv), levels=(16,))
    size = 8 * len(coder.encode(kv, [0] * 400)) / kv.num_values
    # 16 and 12 levels without a coder: 4 bits and 3.58, and 32 bits for each grid.
    grids = 32 * (1 / 400 + 1 / 96) / 2
    assert 2.0 < size < 3.9 + grids
    assert size < 0.95 * (0.7 * 4 + 0.3 * 3.585 + grids)
