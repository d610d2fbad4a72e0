"""Many simulated loads of one policy on one trace, and their statistics."""

from __future__ import annotations

import random
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cachegen.codec.levels import TEXT
from cachegen.policy.costs import Costs
from cachegen.simulation.engine import simulate_many
from cachegen.simulation.scenario import Context, Request, SimulatedLoad
from cachegen.simulation.specs import Policy
from cachegen.simulation.trace import Trace

# Stand for a service with a load every few seconds. Arbitrary: 1 to 100 s, 0.1 to 10 s do.
_EARLIER_S = 10.0
_WINDOW_S = 1.0


Group = tuple[float, int]
"""Where in the trace loads begin, and how many begin together."""


@dataclass(frozen=True, slots=True)
class Trials:
    """The loads that policies are compared on.

    Attributes:
        context: the context that they load.
        costs: of the machine.
        trace: of the link.
        slo_s: deadline of every load in seconds; None if there is none.
        num_loads: number of loads.
        concurrency: how many of them begin together and share everything.
        seed: of the random places in the trace where they begin.
    """

    context: Context
    costs: Costs
    trace: Trace
    slo_s: float | None = None
    num_loads: int = 100  # five of them lie above the 95th percentile
    concurrency: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the counts.

        Raises:
            ValueError: the number of loads, or of those at a time, is below 1.
        """
        if self.num_loads < 1 or self.concurrency < 1:
            raise ValueError(
                f"expected at least one load at a time, got {self.num_loads} loads, "
                f"{self.concurrency} at a time"
            )

    def groups(self) -> list[Group]:
        """All loads, grouped by where in the trace they begin; the same for equal trials."""
        draw = random.Random(self.seed)
        sizes = [self.concurrency] * (self.num_loads // self.concurrency)
        if rest := self.num_loads % self.concurrency:
            sizes.append(rest)
        return [(draw.uniform(0.0, self.trace.period_s), size) for size in sizes]

    def run(self, policy: Policy, groups: Sequence[Group] | None = None) -> list[SimulatedLoad]:
        """Simulate the loads of these groups, by default of all."""
        context = self.context if policy.is_stored else self.context.without_options()
        request = Request(context, policy.controller, self.costs, slo_s=self.slo_s)
        loads: list[SimulatedLoad] = []
        for start_s, together in self.groups() if groups is None else groups:
            loads += simulate_many(
                [request] * together,
                trace=self.trace,
                start_s=start_s,
                known_bytes_per_s=known_bytes_per_s(self.trace, start_s),
            )
        return loads


def known_bytes_per_s(trace: Trace, start_s: float) -> float:
    """The throughput known from an earlier load: the mean of a second, ten seconds before."""
    earlier_s = (start_s - _EARLIER_S) % trace.period_s
    carried = trace.carried_bytes(earlier_s + _WINDOW_S) - trace.carried_bytes(earlier_s)
    return carried / _WINDOW_S


@dataclass(frozen=True, slots=True)
class Outcome:
    """Statistics of the loads of a policy.

    Attributes:
        num_loads: number of loads.
        ttft_median_s: median of their times in seconds.
        ttft_p95_s: 95th percentile of their times in seconds.
        mean_bytes: mean of the bytes received.
        recomputed: share of chunks recomputed.
        levels: share of chunks by level.
        met: share of loads that met their deadline; None if there was none.
    """

    num_loads: int
    ttft_median_s: float
    ttft_p95_s: float
    mean_bytes: float
    recomputed: float
    levels: dict[str, float]
    met: float | None


def outcome_of(loads: Sequence[SimulatedLoad]) -> Outcome:
    """Statistics of these loads."""
    times = sorted(load.ttft_s for load in loads)
    counts = Counter(level for load in loads for level in load.levels)
    levels = {level: count / counts.total() for level, count in counts.most_common()}
    has_deadline = loads[0].slo_s is not None
    return Outcome(
        num_loads=len(loads),
        ttft_median_s=statistics.median(times),
        ttft_p95_s=times[min(int(0.95 * len(times)), len(times) - 1)],
        mean_bytes=statistics.fmean(load.received_bytes for load in loads),
        recomputed=levels.get(TEXT, 0.0),
        levels=levels,
        met=sum(load.met for load in loads) / len(loads) if has_deadline else None,
    )
