"""Runs trials of several policies in several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from cachegen.simulation.scenario import SimulatedLoad
from cachegen.simulation.specs import Policy
from cachegen.simulation.trials import Group, Trials

# 0.25 s of work at 1,000 loads a second; below a second of it a process takes as long to start
# (0.7 s: docs/LOG.md, 2026-11-21, many simulated loads).
_PORTION = 250
_WORTH_PROCESSES = 4 * _PORTION

Portion = tuple[Policy, Sequence[Group]]


def run_all(
    trials: Trials,
    policies: Sequence[Policy],
    *,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, list[SimulatedLoad]]:
    """Simulate the loads of every policy, by its name; the same for any number of processes.

    Args:
        trials: the loads to compare the policies on.
        policies: the policies; equal names count once.
        jobs: largest number of processes; few loads run in this one.
        progress: called with (loads done, loads in total).

    Raises:
        ValueError: the number of processes is below 1.
    """
    if jobs < 1:
        raise ValueError(f"expected at least one process, got {jobs}")
    by_name = {policy.name: policy for policy in policies}
    total = trials.num_loads * len(by_name)
    loads: dict[str, list[SimulatedLoad]] = {name: [] for name in by_name}
    portions = list(_portions(trials, by_name.values()))
    if total < _WORTH_PROCESSES:
        jobs = 1
    done = 0
    for (policy, _), some in zip(portions, _results(trials, portions, jobs), strict=True):
        loads[policy.name] += some
        done += len(some)
        if progress is not None:
            progress(done, total)
    return loads


def _portions(trials: Trials, policies: Iterable[Policy]) -> Iterator[Portion]:
    groups = trials.groups()
    step = max(_PORTION // trials.concurrency, 1)
    for policy in policies:
        for first in range(0, len(groups), step):
            yield policy, groups[first : first + step]


def _results(
    trials: Trials, portions: Sequence[Portion], jobs: int
) -> Iterable[list[SimulatedLoad]]:
    """Yield the loads of every portion, in order."""
    run = partial(_run, trials)
    if jobs == 1:
        yield from map(run, portions)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(portions)), context) as pool:
        yield from pool.map(run, portions)


def _run(trials: Trials, portion: Portion) -> list[SimulatedLoad]:
    return trials.run(*portion)
