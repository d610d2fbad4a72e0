import numpy as np
import pytest
import torch

from cachegen.codec import plain
from cachegen.codec.rope import RopeMap
from cachegen.codec.symbols import Unrepresentable
from cachegen.kvcache import KVCache


def test_means_and_spreads_of_all_samples(make_cache):
    samples = [make_cache("mixed", tokens, seed=tokens, start=5) for tokens in (30, 1, 70)]
    found = plain.statistics(samples, RopeMap.none(6))
    first = 0
    for index, plane in enumerate(found.geometry.planes):
        values = torch.cat([list(kv.planes())[index] for kv in samples], dim=1).double()
        means = values.mean(dim=1).flatten().numpy()
        assert np.allclose(found.means[first : first + plane.width], means, atol=1e-6)
        rms = (values - values.mean(dim=1, keepdim=True)).square().mean().sqrt()
        assert np.isclose(found.rms[index], float(rms), rtol=1e-6)
        first += plane.width
    assert found.means.dtype == found.rms.dtype == np.float32


def test_sinks_are_left_out(make_cache):
    kv = make_cache("mqa", 40)
    loud = make_cache("mqa", 40)
    for plane in loud.planes():
        plane[:, :4] = 1e6
    one, other = (plain.statistics([sample], RopeMap.none(4)) for sample in (kv, loud))
    assert np.array_equal(one.means, other.means)
    assert np.array_equal(one.rms, other.rms)


def test_planes_that_never_change_have_a_spread_of_one():
    plane = torch.zeros((1, 20, 4))
    found = plain.statistics(
        [KVCache.from_layers([(plane, plane + 0.5)], start=9)], RopeMap.none(2)
    )
    assert found.rms[0] == 1
    assert found.means.tolist() == [0] * 4 + [0.5] * 4


def test_nothing_to_learn_from(make_cache):
    with pytest.raises(ValueError, match="at least one sample"):
        plain.statistics([], RopeMap.none(4))
    with pytest.raises(ValueError, match="one geometry"):
        plain.statistics(
            [make_cache("mqa", 4), make_cache("mqa", 4, torch.float16)], RopeMap.none(4)
        )
    found = plain.statistics([make_cache("mqa", 2)], RopeMap.none(4))
    assert not found.means.any() and found.rms.tolist() == [1] * 4


@pytest.mark.parametrize("value", (float("nan"), float("inf")))
def test_values_that_are_not_numbers(make_cache, value):
    kv = make_cache("mqa", 20)
    kv.values[1][0, 9, 2] = value
    with pytest.raises(Unrepresentable):
        plain.statistics([kv], RopeMap.none(4))
