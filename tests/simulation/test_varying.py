"""Links that vary: the same for equal seeds, as much as they say."""

import random

import pytest

from cachegen.simulation.oracle import earliest_s
from cachegen.simulation.specs import parse_policy
from cachegen.simulation.trace import Trace, constant
from cachegen.simulation.varying import Machine, draw_case, families, load_of


@pytest.fixture
def machine(context, costs) -> Machine:
    return Machine("small", context, costs)


def test_at_the_break_even_rate_loading_takes_as_long_as_computing(machine):
    assert machine.text_s == pytest.approx(0.4)
    bits_s = 8 * 4 * 4_000 / 0.4
    assert machine.break_even_mbit_s == pytest.approx(bits_s / 1e6)
    trace = constant(machine.break_even_mbit_s)
    assert trace.seconds_for(4 * 4_000) == pytest.approx(machine.text_s)


@pytest.mark.parametrize("family", sorted(families()))
def test_rates_vary_ten_times_during_the_load(machine, family):
    case, again = (
        draw_case(family, families()[family], machine, random.Random(3)) for _ in range(2)
    )
    assert case == again
    rates = []
    for ends_s, rate in case.trace.pieces(case.start_s):
        rates.append(rate)
        if ends_s >= case.oracle_s:
            break
    assert max(rates) >= 10 * min(rates)
    assert case.oracle_s == earliest_s(
        machine.context, machine.costs, trace=case.trace, start_s=case.start_s
    )
    wrong = case.believed.prefill.b_s / machine.costs.prefill.b_s
    assert 0.8 <= wrong <= 1.2 and wrong != 1


def test_a_link_that_does_not_vary_is_refused(machine):
    def steady(draw: random.Random) -> Trace:
        return constant(draw.uniform(1, 2))

    with pytest.raises(ValueError, match="steady: found no load during which the link varies 10"):
        draw_case("steady", steady, machine, random.Random(0))


@pytest.mark.parametrize("name", ("min_ttft", "algorithm1", "fixed:high", "text"))
def test_no_load_beats_the_oracle(machine, name):
    draw = random.Random(5)
    for family, make in families().items():
        case = draw_case(family, make, machine, draw)
        load = load_of(parse_policy(name), machine, case)
        assert load.ttft_s >= case.oracle_s * (1 - 1e-6)
        assert set(load.levels) == {"text"} or name != "text"
