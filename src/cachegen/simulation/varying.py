"""Links that vary by ten times while a load goes on, drawn for a context and a machine."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cachegen.policy.costs import Costs, DecodeCost, PrefillCost
from cachegen.simulation.engine import TICK_S, simulate
from cachegen.simulation.oracle import earliest_s
from cachegen.simulation.scenario import Context, Request, SimulatedLoad
from cachegen.simulation.specs import Policy
from cachegen.simulation.trace import Trace, constant, random_trace, step
from cachegen.simulation.trace_files import read_folder, shipped_names, shipped_trace
from cachegen.simulation.trials import known_bytes_per_s

# Of the fastest rate during a load over the slowest.
VARIATION = 10.0
# A link's pieces during a load, and its mean in break-even rates. Arbitrary: 2 to 200 pieces, and
# ranges that hold 1, do.
PIECES_PER_LOAD = (4.0, 64.0)
RATES = (0.5, 20.0)
# What a controller takes decoding and recomputing for, over what they are.
MISTAKE = (0.8, 1.2)
# Bytes of an abandoned transfer that are under way. Arbitrary: 16 to 256 KiB do.
QUEUE_BYTES = 64 << 10
_PIECES = 400
_TRIES = 400

Draw = Callable[[random.Random], Trace]


@dataclass(frozen=True, slots=True)
class Machine:
    """A context and what it costs on the machine that loads it.

    Attributes:
        name: for people.
        context: what is loaded.
        costs: of decoding and recomputing.
    """

    name: str
    context: Context
    costs: Costs

    @property
    def text_s(self) -> float:
        """Seconds to recompute everything."""
        return earliest_s(self.context.without_options(), self.costs, trace=constant(1.0))

    @property
    def break_even_mbit_s(self) -> float:
        """Where fetching everything at the default level takes as long as recomputing it."""
        chunks, rank = self.context.chunks, self.context.default_rank
        sizes = (option.size_bytes for c in chunks for option in c.options if option.rank == rank)
        return sum(sizes) * 8e-6 / self.text_s


@dataclass(frozen=True, slots=True)
class Case:
    """A link at a moment.

    Attributes:
        family: what kind of trace it is.
        trace: the link.
        start_s: when the load begins.
        oracle_s: what the load takes at least.
        believed: what the controller takes decoding and recomputing for.
    """

    family: str
    trace: Trace
    start_s: float
    oracle_s: float
    believed: Costs


def families(data: Path | None = None) -> Mapping[str, Draw]:
    """What draws a trace of each kind; its mean and its pace are set later.

    Args:
        data: folder of further traces.
    """
    real: dict[str, list[Trace]] = {}
    for name in shipped_names():
        real.setdefault(name.split("-")[0], []).append(shipped_trace(name))
    if data is not None:
        real["own"] = read_folder(data)
    drawn = {name: _among(traces) for name, traces in real.items()}
    return {**drawn, "random": _uniform, "steps": _steps}


def draw_case(family: str, make: Draw, machine: Machine, draw: random.Random) -> Case:
    """A link whose rate varies by at least ten times while the load goes on.

    The trace gets a mean of 0.5 to 20 times the rate at which fetching everything takes as long
    as recomputing it, and a pace at which 4 to 64 of its pieces pass during the load.

    Raises:
        ValueError: a family whose traces hardly ever vary so much.
    """
    for _ in range(_TRIES):
        trace = make(draw).scaled(machine.break_even_mbit_s * _between(*RATES, draw))
        steady = Trace(trace.name, (1.0,), (trace.mean_bytes_per_s,))
        expected_s = earliest_s(machine.context, machine.costs, trace=steady)
        piece_s = sorted(trace.durations_s)[len(trace.durations_s) // 2]
        trace = trace.sped_up(piece_s * _between(*PIECES_PER_LOAD, draw) / expected_s)
        start_s = draw.uniform(0.0, trace.period_s)
        oracle_s = earliest_s(machine.context, machine.costs, trace=trace, start_s=start_s)
        if _variation(trace, start_s, start_s + oracle_s) >= VARIATION:
            return Case(family, trace, start_s, oracle_s, _mistaken(machine.costs, draw))
    raise ValueError(f"{family}: found no load during which the link varies {VARIATION:g} times")


def load_of(
    policy: Policy, machine: Machine, case: Case, *, slo_s: float | None = None
) -> SimulatedLoad:
    """One load; without a deadline it never looks at a transfer under way."""
    context = machine.context if policy.is_stored else machine.context.without_options()
    return simulate(
        Request(context, policy.controller, machine.costs, slo_s=slo_s, believed=case.believed),
        trace=case.trace,
        start_s=case.start_s,
        known_bytes_per_s=known_bytes_per_s(case.trace, case.start_s),
        queue_bytes=QUEUE_BYTES,
        tick_s=case.oracle_s if slo_s is None else TICK_S,
    )


def _mistaken(costs: Costs, draw: random.Random) -> Costs:
    """Estimates of the costs, wrong by up to a fifth."""
    prefill, wrong = costs.prefill, draw.uniform(*MISTAKE)
    assert prefill is not None
    return Costs(
        PrefillCost(prefill.a_s * wrong, prefill.b_s * wrong, prefill.c_s * wrong),
        {
            level: DecodeCost(cost.a_s * wrong, cost.b_s * wrong)
            for level, cost in costs.decode.items()
        },
        costs.request_s * wrong,
    )


def _between(low: float, high: float, draw: random.Random) -> float:
    return math.exp(draw.uniform(math.log(low), math.log(high)))


def _variation(trace: Trace, start_s: float, stop_s: float) -> float:
    rates = []
    for ends_s, rate in trace.pieces(start_s):
        rates.append(rate)
        if start_s + ends_s >= stop_s:
            break
    return max(rates) / min(rates) if min(rates) else math.inf


def _among(traces: Sequence[Trace]) -> Draw:
    return lambda draw: draw.choice(traces)


def _uniform(draw: random.Random) -> Trace:
    """As in the paper: anything from 0.1 to 10, drawn again for every piece."""
    return random_trace(draw.randrange(2**32), low_mbit_s=0.1, high_mbit_s=10.0, every_s=1.0)


def _steps(draw: random.Random) -> Trace:
    """A fast and a ten times slower rate in turns, each for one to eight pieces' time."""
    pieces = [(draw.uniform(1.0, 8.0), (1.0, 10.0)[i % 2]) for i in range(_PIECES)]
    return step([(seconds / 4.0, rate) for seconds, rate in pieces], name="steps")
