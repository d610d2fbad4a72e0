import numpy as np
import pytest

from cachegen import kernels
from cachegen.codec.transform.basis import (
    EVEN_GRID,
    WEIGHTED_GRID,
    LayerGroup,
    Transform,
    fill_features,
    integer_basis,
)
from cachegen.kernels.checks import check_tail
from cachegen.kernels.layout import PlaneLayout, Synthesis


def group_of(num_coefficients, num_features, width, *, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    return LayerGroup(
        planes=(0,),
        means=rng.normal(size=width).astype(np.float32),
        prediction=(scale * rng.normal(size=(num_features, width))).astype(np.float16),
        synthesis=(scale * rng.normal(size=(num_coefficients, width))).astype(np.float16),
        analysis=np.zeros((width, num_coefficients), dtype=np.float16),
        variances=np.ones(num_coefficients, dtype=np.float32),
    )


def features_of(tokens, *tables, last=None):
    transform = Transform(
        (), tuple(np.array(t, dtype=np.int8) for t in tables), 0, 1.0, ood_score=0.0
    )
    rows = np.full((len(tokens) if last is None else last, transform.num_features), 99, np.int16)
    fill_features(rows, transform, tokens)
    return rows.tolist()


def test_features_are_those_of_the_token_and_of_the_one_before():
    tables = [[1, 2], [3, 4], [5, 6]], [[10], [20], [30]]
    assert features_of([2, 0, 1], *tables) == [[5, 6, 0], [1, 2, 30], [3, 4, 10]]
    assert features_of([2, 0, 1], *tables, last=2) == [[1, 2, 30], [3, 4, 10]]


@pytest.mark.parametrize("unknown", (3, -1, 2**32 - 1))
def test_ids_beyond_the_vocabulary_have_no_features(unknown):
    found = features_of([1, unknown, 2], [[1], [3], [5]], [[10], [20], [30]])
    assert found == [[3, 0], [0, 20], [5, 0]]


@pytest.mark.parametrize("tokens", ([], [1], [1, 1]))
def test_fewer_tokens_than_lags(tokens):
    found = features_of(tokens, *([[1], [2]] for _ in range(4)))
    assert [np.count_nonzero(row) for row in found] == list(range(1, len(tokens) + 1))


@pytest.mark.parametrize("last", (1, 2, 3))
def test_fewer_rows_than_lags(last):
    tables = [[[lag, lag + 5]] * 2 for lag in range(1, 5)]
    assert (
        features_of([0, 1, 1, 0], *tables, last=last) == features_of([0, 1, 1, 0], *tables)[-last:]
    )


def test_no_features_at_all():
    assert features_of([5, 6]) == [[], []]


@pytest.mark.parametrize("step", (0.01, 1.0, 50.0))
@pytest.mark.parametrize("grid", (EVEN_GRID, WEIGHTED_GRID))
def test_integers_stand_for_the_numbers(step, grid):
    group = group_of(40, 12, 24)
    basis = integer_basis(group, step=step, num_active=30, grid=grid)
    assert basis.rows.shape == (30, 24) and basis.prediction.shape == (12, 24)
    steps = group.synthesis[:30].astype(float) * step / grid.fraction
    exact = np.concatenate([steps, group.prediction])
    found = np.concatenate([basis.rows, basis.prediction])
    largest = np.abs(exact).max(axis=0)
    fineness = 500 if basis.tail == 30 else 127
    assert (np.abs(found * basis.scales - exact).max(axis=0) <= largest / fineness).all()
    assert np.array_equal(np.exp2(np.round(np.log2(basis.scales))), basis.scales)


@pytest.mark.parametrize("scale", (1.0, 1e-3, 300.0))
def test_no_coefficients_can_overflow_the_sums(scale):
    basis = integer_basis(group_of(200, 100, 8, scale=scale), step=3.0, num_active=200)
    assert basis.reach == np.inf
    sums = np.abs(basis.rows.astype(np.int64)).sum(axis=0) * 32 * 512
    sums += np.abs(basis.prediction.astype(np.int64)).sum(axis=0) * 128
    assert sums.max() < 2**31
    assert sums.max() > 2**29


@pytest.mark.parametrize("step", (0.05, 0.2, 0.3, 3.0))
def test_the_tail_is_of_8_bits(step):
    group = group_of(200, 10, 40)
    group.variances[:] = 9.0 / np.arange(1, 201)
    basis = integer_basis(group, step=step, num_active=180, grid=WEIGHTED_GRID)
    above = np.flatnonzero(group.variances[:180].astype(float) > 16 * step**2)
    assert basis.tail == (above[-1] + 1 if len(above) else 0)
    check_tail(basis.rows[basis.tail :])
    exact = group.synthesis[:180].astype(float) * step / WEIGHTED_GRID.fraction
    found = basis.rows * basis.scales
    largest = np.abs(exact[basis.tail :]).max(axis=0, initial=0)
    off = np.abs(found - exact)[basis.tail :]
    assert (off <= np.maximum(largest / 127, basis.scales / 2)).all()
    assert integer_basis(group, step=step, num_active=180).tail == 180


def test_a_tail_begins_behind_the_last_large_coefficient():
    group = group_of(20, 0, 4)
    group.variances[:] = 1.0
    group.variances[13] = 17.0
    assert integer_basis(group, step=1.0, num_active=20, grid=WEIGHTED_GRID).tail == 14
    assert integer_basis(group, step=1.0, num_active=13, grid=WEIGHTED_GRID).tail == 0
    assert integer_basis(group, step=1.0, num_active=0, grid=WEIGHTED_GRID).tail == 0


@pytest.mark.parametrize("largest", (32513.0, 32767.0, 32700.0))
def test_entries_near_the_largest_stay_in_16_bits(largest):
    group = group_of(1, 0, 1)
    group.synthesis[:], group.variances[:] = largest / 32768, 1e-9
    basis = integer_basis(group, step=8.0, num_active=1, grid=WEIGHTED_GRID)
    check_tail(basis.rows)
    assert basis.rows * basis.scales == pytest.approx(group.synthesis.astype(float), rel=1 / 127)


@pytest.mark.parametrize("scale", (1e-3, 1.0, 300.0))
@pytest.mark.parametrize("step", (0.05, 0.3, 3.0))
def test_no_row_within_reach_can_overflow_the_sums(scale, step):
    group = group_of(200, 100, 8, scale=scale)
    group.variances[:] = 9.0 / np.arange(1, 201)
    basis = integer_basis(group, step=step, num_active=200, grid=WEIGHTED_GRID)
    rows = basis.rows.astype(float)
    worst = basis.spreads[:, None] ** 2 * rows
    length = np.sqrt(((worst / basis.spreads[:, None]) ** 2).sum(axis=0))
    sums = (worst * rows).sum(axis=0) * np.sqrt(basis.reach) / length
    sums += np.abs(basis.prediction.astype(np.int64)).sum(axis=0) * 128
    assert sums.max() < 2**31


def test_columns_of_zeros():
    group = group_of(3, 0, 4, scale=0.0)
    basis = integer_basis(group, step=1.0, num_active=3)
    assert not basis.rows.any()
    assert (basis.scales > 0).all()


def test_the_kernel_puts_together_what_the_integers_say():
    group = group_of(20, 6, 16)
    group.variances[:] = 99.0
    basis = integer_basis(group, step=0.5, num_active=12, grid=WEIGHTED_GRID)
    rng = np.random.default_rng(1)
    coefficients = rng.integers(-600, 600, size=(5, 12))
    features = rng.integers(-127, 128, size=(5, 6))
    out = np.empty(5 * 16, dtype=np.float32)
    work = Synthesis(
        np.concatenate([coefficients, features], axis=1).astype(np.int16),
        np.concatenate([basis.rows, basis.prediction]),
        basis.scales,
        group.means,
        planes=[PlaneLayout(1, 16, 0)],
        rotations=[],
        num_tokens=5,
        tokens=np.arange(5),
        dtype="float32",
    )
    kernels.synthesise(work, out)
    expected = group.means + features @ group.prediction.astype(float)
    expected += (coefficients * 0.5 / WEIGHTED_GRID.fraction) @ group.synthesis[:12].astype(float)
    assert np.abs(out.reshape(5, 16) - expected).max() < 2e-3 * np.abs(expected).max()
