"""Bootstrap intervals."""

from __future__ import annotations

import numpy as np
import pytest

from cachegen.evaluation.intervals import Interval, mean_interval, ratio_interval


def test_of_many_cases_it_is_the_normal_one() -> None:
    values = np.random.default_rng(3).normal(5.0, 2.0, 400)
    found = mean_interval(values.tolist(), seed=0)
    half = 1.96 * values.std() / len(values) ** 0.5
    assert found is not None
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_it_holds_the_mean_as_often_as_it_says() -> None:
    draws = np.random.default_rng(4).exponential(1.0, (200, 30))
    found = [mean_interval(draw.tolist(), seed=index) for index, draw in enumerate(draws)]
    held = sum(one is not None and one.low <= 1.0 <= one.high for one in found)
    assert 0.86 < held / len(draws) < 0.99


def test_the_same_seed_gives_the_same() -> None:
    values = [0.0, 1.0, 1.0, 0.0, 1.0, 0.5]
    assert mean_interval(values, seed=1) == mean_interval(values, seed=1)
    assert mean_interval(np.pi * np.arange(9.0), seed=1) != mean_interval(
        np.pi * np.arange(9.0), seed=2
    )


def test_a_ratio_is_of_sums() -> None:
    values = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0]
    mean = mean_interval(values, seed=0)
    assert mean is not None
    found = ratio_interval(values, [2.0] * 6, seed=0)
    assert found == Interval(mean.low / 2, mean.high / 2)
    large = ratio_interval([1.0, 2.0, 300.0, 310.0], [1.0, 1.0, 100.0, 100.0], seed=0)
    assert large is not None
    assert large.low <= 613 / 202 <= large.high
    assert large.low > 1.25


@pytest.mark.parametrize("values", ([], [1.0]))
def test_fewer_than_two_have_none(values: list[float]) -> None:
    assert mean_interval(values, seed=0) is None
    assert ratio_interval(values, values, seed=0) is None


def test_cases_that_are_alike() -> None:
    assert mean_interval([0.25] * 5, seed=0) == Interval(0.25, 0.25)
    assert ratio_interval([1.0, 2.0, 4.0], [2.0, 4.0, 8.0], seed=0) == Interval(0.5, 0.5)


def test_one_case_that_differs() -> None:
    found = mean_interval([1.0] * 9 + [0.0], seed=0)
    assert found is not None
    assert found.low < 0.9 < found.high <= 1.0


def test_sums_are_of_the_same_cases() -> None:
    with pytest.raises(ValueError, match="as many numerators as denominators, got 2 and 1"):
        ratio_interval([1.0, 2.0], [1.0], seed=0)
