import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cachegen.codec.transform.importance import (
    LARGEST_MULTIPLIER,
    NUM_CLASSES,
    NUM_POSITION_TERMS,
    ONE,
    Importance,
    classes_of,
    counted_rows,
    fit,
    group_terms,
    multipliers,
    position_terms,
    relative_steps,
)


def test_position_terms_are_hinges_of_both_distances():
    terms = position_terms(np.array([0, 3, 99]), 99)
    assert terms.shape == (3, NUM_POSITION_TERMS)
    assert terms[:, 0].tolist() == [1, 1, 1]
    assert terms[2, 1:5].tolist() == [0] * 4
    assert terms[0, 5:].tolist() == [0] * 4
    assert terms[1, 5:].tolist() == [2, 0, 0, 0]
    assert terms[0, 1] == pytest.approx(math.log2(100))
    assert terms[0, 2] == pytest.approx(math.log2(100) - 2)


def test_positions_far_away_weigh_what_distant_ones_do():
    terms = position_terms(np.array([256, 40_000]), 50_000)
    assert torch.equal(terms[0], terms[1])


def test_group_terms_are_in_units_of_the_spread():
    rows = torch.tensor([[2.0, 0.0, 0.0], [0.0, 300.0, 0.0]])
    terms = group_terms(rows, np.array([4.0, 1.0, 0.0], dtype=np.float32), 3)
    assert terms[0].tolist() == pytest.approx([1.0, 0.0, math.log(4 / 5)])
    assert terms[1].tolist() == pytest.approx([0.0, 4.0, math.log(90_000 / 5)])


def test_log_weights_add_up():
    found = Importance(
        np.eye(1, NUM_POSITION_TERMS, dtype=np.float32)[0], (np.array([0.5, 0.0], np.float32),)
    )
    rows = torch.tensor([[2.0], [-2.0], [float("nan")]])
    weights = found.log_weights([rows], [np.ones(1, np.float32)], positions=np.arange(3), last=2)
    assert weights.tolist() == [2.0, 0.0, 0.0]


@given(st.lists(st.floats(-12, 12), min_size=1, max_size=50))
def test_steps_fall_with_the_root_of_the_weight(logarithms):
    logarithms = torch.tensor(logarithms, dtype=torch.float32)
    found = multipliers(logarithms)
    assert (found >= 1).all() and (found <= LARGEST_MULTIPLIER).all()
    ideal = (ONE * (-0.5 * logarithms).exp()).clamp(1, LARGEST_MULTIPLIER)
    assert ((found - ideal).abs() <= 0.5).all()


def test_classes_are_octaves():
    assert classes_of(np.arange(1, 64)).tolist() == [
        value.bit_length() - 1 for value in range(1, 64)
    ]
    assert len(relative_steps(NUM_CLASSES)) == NUM_CLASSES and relative_steps(1) == [1.0]
    for index, step in enumerate(relative_steps(NUM_CLASSES)):
        assert classes_of(np.array([int(step * ONE)])) == [index]


def test_what_was_put_in_is_found_again():
    generator = torch.Generator().manual_seed(0)
    terms = torch.cat([torch.ones(20_000, 1), torch.randn(20_000, 2, generator=generator)], 1)
    truth = torch.tensor([0.0, 1.5, -0.7])
    information = (terms @ truth).exp() * torch.empty(20_000).exponential_(generator=generator)
    found = fit(terms, information.double() * 1e-40, penalty=0.0)
    assert found[1:].tolist() == pytest.approx(truth[1:].tolist(), abs=0.05)


def test_nothing_known_weighs_the_same():
    found = fit(torch.ones(100, 1), torch.zeros(100, dtype=torch.float64))
    assert torch.isfinite(found).all()


@pytest.mark.parametrize(
    ("start", "count", "total"),
    (
        (0, 2000, 2000 * math.exp(3)),
        (255, 2000, 2000 * math.exp(3)),
        (256, 2000, 2000),
        (256, 100, 1536),
        (5000, 50, 50 * math.exp(3)),
        (5000, 0, 0),
    ),
)
def test_a_chunk_behind_the_beginning_weighs_no_more_than_a_sample(start, count, total):
    position = np.zeros(NUM_POSITION_TERMS, dtype=np.float32)
    position[0] = 3.0
    positions = np.arange(start, start + count)
    found = Importance(position, ()).log_weights(
        (), (), positions=positions, last=start + count - 1
    )
    assert found.shape == (count,)
    assert float(found.double().exp().sum()) == pytest.approx(total, rel=1e-4)


def test_the_cap_changes_no_proportions():
    position = np.linspace(0.5, 1.5, NUM_POSITION_TERMS, dtype=np.float32)
    positions = np.arange(400, 900)
    free = position_terms(positions, 899) @ torch.from_numpy(position)
    capped = Importance(position, ()).log_weights((), (), positions=positions, last=899)
    apart = free.clamp(max=12) - capped
    assert float(apart.min()) == pytest.approx(float(apart.max()), abs=1e-3) and apart.min() > 0


def test_a_part_of_a_context_costs_as_much_less_as_it_is_shorter():
    """At the beginning a chunk is all there is; behind it, it is a part of a longer context."""
    assert counted_rows(np.arange(4, 104)) == 100
    assert counted_rows(np.arange(300, 400)) == 1536
    assert counted_rows(np.arange(300, 2300)) == 2000
    assert counted_rows(np.arange(0)) == 1
