from dataclasses import replace

import numpy as np
import pytest
import torch

from cachegen.codec.calibration.learn import learn
from cachegen.codec.calibration.moments import blank_moments, gather, lagged
from cachegen.codec.calibration.sample import Sample
from cachegen.codec.rope import RopeMap
from cachegen.codec.transform.analysis import analyse, ood_score
from cachegen.codec.transform.quantisation import Quantiser
from cachegen.kvcache import KVCache

VOCABULARY, FEATURES, WIDTH = 30, 5, 12
GROUPS = ((0, 1), (2, 3))


def plane(values):
    return torch.from_numpy(values.astype(np.float32))[None]


def cache_of(values):
    """Four planes of three channels from (tokens, 12)."""
    first, second, third, fourth = (plane(values[:, i : i + 3]) for i in range(0, WIDTH, 3))
    return KVCache((first, third), (second, fourth), len(values))


def summed(samples, *, groups, features, lags, **options):
    sums = blank_moments(
        samples[0].kv.geometry,
        groups,
        num_features=lags * features.shape[1],
        continuation_tokens=samples[0].continuation_tokens,
    )
    gather(samples, sums, groups=groups, features=features, lags=lags, **options)
    return sums


class Source:
    """Caches that depend on the text, on two hidden causes and on a little noise."""

    def __init__(self, *, noise=0.05, hidden=1.0):
        rng = np.random.default_rng(0)
        self.features = rng.normal(size=(VOCABULARY, FEATURES)).astype(np.float32)
        self.own, self.before = rng.normal(size=(2, FEATURES, WIDTH))
        self.causes = hidden * rng.normal(size=(2, WIDTH))
        self.slopes = rng.normal(size=(WIDTH, WIDTH)) / 100
        self.mean = 3 * rng.normal(size=WIDTH)
        self.noise = noise

    def sample(self, seed, *, num_tokens=400):
        rng = np.random.default_rng(seed)
        tokens = rng.integers(0, VOCABULARY, size=num_tokens)
        f = self.features[tokens]
        before = np.concatenate([np.zeros((1, FEATURES)), f[:-1]])
        x = self.mean + f @ self.own + before @ self.before
        x = x + rng.normal(size=(num_tokens, 2)) @ self.causes
        x = x + self.noise * rng.normal(size=x.shape)
        g = rng.normal(size=x.shape) @ self.slopes
        return Sample(tokens, cache_of(x), cache_of(g), continuation_tokens=8)

    def samples(self, count=6):
        return [self.sample(seed) for seed in range(count)]

    def moments(self, groups=GROUPS, **options):
        arguments = {"rope": RopeMap.none(4), "features": self.features, "lags": 2, "num_sinks": 0}
        return summed(self.samples(), groups=groups, **(arguments | options))

    def learned(self, groups=GROUPS, *, lag_ranks=(5, 5), most=WIDTH, **options):
        return learn(
            self.moments(groups),
            groups,
            self.features,
            lag_ranks=lag_ranks,
            most_coefficients=most,
            num_sinks=0,
            **options,
        )


@pytest.mark.parametrize("what", ("kv", "gradient"))
@pytest.mark.parametrize("channel", (0, 4, WIDTH - 1))
def test_squares_that_overflow_are_refused_in_whatever_channel(what, channel):
    source = Source()
    values = np.ones((40, WIDTH))
    values[3, channel] = 1e25
    sample = replace(source.sample(0, num_tokens=40), **{what: cache_of(values)})
    with pytest.raises(ValueError, match=r"squares float32 can sum, got larger ones in sample 1"):
        summed(
            [sample],
            groups=GROUPS,
            features=source.features,
            lags=2,
            rope=RopeMap.none(4),
            num_sinks=0,
        )


def test_lagged_features():
    table = torch.tensor([[1.0], [2.0], [3.0]])
    assert lagged(table, np.array([2, 0, 1]), 2).tolist() == [[3, 0], [1, 3], [2, 1]]
    assert lagged(table, np.array([2]), 3).tolist() == [[3, 0, 0]]


def test_moments_are_sums_over_tokens():
    source = Source()
    moments = source.moments()
    x = np.concatenate([np.concatenate([p[0] for p in s.kv.planes()], 1) for s in source.samples()])
    assert moments.num_tokens == len(x) == 2400
    assert moments.mean_tokens == 400
    assert np.allclose(moments.xx[1], x[:, 6:].T @ x[:, 6:], rtol=1e-5)
    assert np.allclose(moments.x[0], x[:, :6].sum(axis=0), rtol=1e-4)


def test_moments_refuse_samples_without_gradients():
    sample = Source().sample(0)
    bare = Sample(sample.tokens, sample.kv, None, 0)
    with pytest.raises(ValueError, match="gradients"):
        summed(
            [bare],
            rope=RopeMap.none(4),
            groups=GROUPS,
            features=Source().features,
            lags=1,
            num_sinks=0,
        )


def test_synthesis_undoes_analysis():
    for group in Source().learned().groups:
        product = group.analysis.astype(float) @ group.synthesis.astype(float)
        assert np.abs(product - np.eye(6)).max() < 0.01


def test_text_and_causes_leave_only_noise():
    source = Source(noise=0.01)
    left = source.learned(((0, 1, 2, 3),)).groups[0].variances
    assert list(left) == sorted(left, reverse=True)
    assert left[2] < 0.01 * left[1]
    deaf = source.learned(((0, 1, 2, 3),), lag_ranks=(0, 0))
    assert deaf.groups[0].variances.sum() > 2 * left.sum()


def test_variances_are_those_of_the_coefficients():
    source = Source()
    transform = source.learned()
    found = [analyse(s.kv, s.tokens, transform, RopeMap.none(4)).leading for s in source.samples()]
    for index, group in enumerate(transform.groups):
        variances = group.variances
        rows = torch.cat([one[index] for one in found]).numpy()
        covariance = rows.T @ rows / len(rows)
        assert np.allclose(covariance.diagonal(), variances, rtol=0.1, atol=0.02 * variances[0])
        assert np.abs(covariance - np.diag(covariance.diagonal())).max() < 0.05 * variances[0]


def test_distortion_is_the_quadratic_form_of_the_gradients():
    """Half the mean square of (error . gradient), over the tokens that follow."""
    source = Source()
    transform, sample = source.learned(((0, 1, 2, 3),), shrinkage=0.0), source.sample(99)
    analysed = analyse(sample.kv, sample.tokens, transform, RopeMap.none(4))
    found = Quantiser.of(transform, step=2.0, num_active=((WIDTH,),)).quantise(analysed)
    assert found.distortion > 0
    (group,) = transform.groups
    lost = analysed.leading[0].numpy() - 2.0 * found.integers[0][0]
    error = lost @ group.synthesis.astype(float)
    gradients = np.random.default_rng(5).normal(size=(100_000, WIDTH)) @ source.slopes
    fisher = gradients.T @ gradients / len(gradients)
    per_token = np.einsum("ti,ij,tj->t", error, fisher, error).mean()
    assert found.distortion == pytest.approx(400 * per_token / (2 * 8), rel=0.1)


def test_few_coefficients_are_watched_by_guards():
    source = Source(noise=1.0)
    learned = source.learned(((0, 1, 2, 3),), most=4)
    (group,) = learned.groups
    assert group.synthesis.shape == (4, WIDTH)
    assert group.analysis.shape == (WIDTH, 4 + 16)
    full = source.learned(((0, 1, 2, 3),))
    sample = source.sample(7)

    def lost(one):
        analysed = analyse(sample.kv, sample.tokens, one, RopeMap.none(4))
        return Quantiser.of(one, step=0.1, num_active=((4,),)).quantise(analysed).distortion

    assert lost(learned) == pytest.approx(lost(full), rel=0.5)


def test_other_sources_are_stranger():
    source = Source()
    transform = source.learned(((0, 1, 2, 3),))

    def strange(one, num_tokens=400):
        sample = one.sample(50, num_tokens=num_tokens)
        analysed = analyse(sample.kv, sample.tokens, transform, RopeMap.none(4))
        return ood_score(analysed, num_active=(WIDTH,))

    assert strange(source) < 0.02
    assert strange(source, 100) < 0.1
    assert strange(Source(hidden=3.0)) > 0.1
    assert strange(Source(noise=0.5)) > strange(Source(noise=0.1)) > 0.1
