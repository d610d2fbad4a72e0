import pytest

from cachegen.simulation.engine import simulate
from cachegen.simulation.scenario import Request
from cachegen.simulation.specs import parse_policy
from cachegen.simulation.trace import constant, random_trace, step
from cachegen.simulation.trials import Trials, known_bytes_per_s, outcome_of

VARYING = random_trace(5, low_mbit_s=1.0, high_mbit_s=10.0, every_s=0.01)


def test_trials_repeat(context, costs):
    trials = Trials(context, costs, VARYING, num_loads=6, seed=1)
    loads = trials.run(parse_policy("min_ttft"))
    assert loads == trials.run(parse_policy("min_ttft"))
    other = Trials(context, costs, VARYING, num_loads=6, seed=2)
    assert loads != other.run(parse_policy("min_ttft"))


def test_text_is_recomputed(context, costs):
    loads = Trials(context, costs, VARYING, num_loads=2).run(parse_policy("text"))
    assert [load.levels for load in loads] == [("text",) * 4] * 2
    assert [load.ttft_s for load in loads] == pytest.approx([0.4, 0.4])


def test_loads_that_begin_together_share(context, costs):
    alone = Trials(context, costs, constant(8.0), num_loads=3).run(parse_policy("fixed:raw"))
    shared = Trials(context, costs, constant(8.0), num_loads=3, concurrency=3)
    together = shared.run(parse_policy("fixed:raw"))
    assert len(together) == 3
    assert min(load.ttft_s for load in together) > 2.5 * max(load.ttft_s for load in alone)


def test_an_outcome_counts(context, costs):
    loads = Trials(context, costs, constant(8.0), slo_s=0.06, num_loads=4).run(parse_policy("text"))
    loads += Trials(context, costs, constant(8.0), slo_s=0.06, num_loads=4).run(
        parse_policy("fixed:high")
    )
    outcome = outcome_of(loads)
    assert outcome.num_loads == 8
    assert outcome.met == 0.5
    assert outcome.recomputed == 0.5
    assert outcome.levels == {"text": 0.5, "high": 0.5}
    assert outcome.mean_bytes == 8_000
    assert outcome.ttft_p95_s == pytest.approx(0.4)


def test_without_a_deadline_none_is_met_or_missed(context, costs):
    loads = Trials(context, costs, constant(8.0), num_loads=1).run(parse_policy("text"))
    assert outcome_of(loads).met is None


def test_no_loads_are_refused(context, costs):
    with pytest.raises(ValueError, match="at least one load"):
        Trials(context, costs, constant(8.0), num_loads=0)
    with pytest.raises(ValueError, match="at least one load"):
        Trials(context, costs, constant(8.0), concurrency=0)


def test_what_is_known_is_older_than_the_load():
    trace = step([(12.0, 8.0), (12.0, 80.0)])
    assert known_bytes_per_s(trace, 14.0) == pytest.approx(1e6)
    assert known_bytes_per_s(trace, 23.0) == pytest.approx(1e7)
    assert known_bytes_per_s(trace, 1.0) == pytest.approx(1e7)


def test_requests_are_what_trials_make(context, costs):
    policy = parse_policy("fixed:high")
    (load,) = Trials(context, costs, constant(8.0), num_loads=1).run(policy)
    single = simulate(
        Request(context, policy.controller, costs), trace=constant(8.0), known_bytes_per_s=1e6
    )
    assert load.levels == single.levels
    assert load.ttft_s == pytest.approx(single.ttft_s)
