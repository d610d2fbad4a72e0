import pytest

from cachegen.simulation import workers
from cachegen.simulation.specs import parse_policy
from cachegen.simulation.trace import random_trace
from cachegen.simulation.trials import Trials
from cachegen.simulation.workers import run_all

VARYING = random_trace(5, low_mbit_s=1.0, high_mbit_s=10.0, every_s=0.01)
POLICIES = [parse_policy(name) for name in ("min_ttft", "fixed:high")]


def test_processes_do_not_change_the_loads(context, costs, monkeypatch):
    monkeypatch.setattr(workers, "_PORTION", 5)
    monkeypatch.setattr(workers, "_WORTH_PROCESSES", 0)
    trials = Trials(context, costs, VARYING, num_loads=13, concurrency=2, seed=1)
    told = []
    spread = run_all(trials, POLICIES, jobs=2, progress=lambda *done: told.append(done))
    assert spread == {policy.name: trials.run(policy) for policy in POLICIES}
    assert told == [(4, 26), (8, 26), (12, 26), (13, 26), (17, 26), (21, 26), (25, 26), (26, 26)]


def test_few_loads_start_no_process(context, costs, monkeypatch):
    monkeypatch.setattr(workers, "ProcessPoolExecutor", None)
    trials = Trials(context, costs, VARYING, num_loads=3)
    loads = run_all(trials, POLICIES, jobs=2)
    assert [len(some) for some in loads.values()] == [3, 3]


def test_a_policy_is_tried_once(context, costs):
    trials = Trials(context, costs, VARYING, num_loads=2)
    loads = run_all(trials, [POLICIES[1], POLICIES[1]])
    assert [(name, len(some)) for name, some in loads.items()] == [("fixed:high", 2)]


def test_no_process_is_refused(context, costs):
    with pytest.raises(ValueError, match="at least one process, got 0"):
        run_all(Trials(context, costs, VARYING), POLICIES, jobs=0)
