"""What must hold before any number of `slo.py` means something."""

from __future__ import annotations

import random

from cachegen.codec.levels import TEXT
from cachegen.simulation.engine import simulate
from cachegen.simulation.oracle import earliest_s
from cachegen.simulation.scenario import Context, Request, SimulatedLoad
from cachegen.simulation.specs import parse_policy
from cachegen.simulation.varying import draw_case, families
from deadlines import worlds

_POLICIES = ("min_ttft", "algorithm1", "fixed:high", "text")


def check(*, seed: int, num_cases: int = 20) -> None:
    """Every load ends with every chunk, its bytes add up, and none beats the oracle.

    Raises:
        AssertionError: one does not.
    """
    machine, draw = worlds.large_model(), random.Random(seed)
    makers = families()
    for number in range(num_cases):
        family = sorted(makers)[number % len(makers)]
        case = draw_case(family, makers[family], machine, draw)
        for name in _POLICIES:
            policy = parse_policy(name)
            context = machine.context if policy.is_stored else machine.context.without_options()
            request = Request(context, policy.controller, machine.costs)
            load = simulate(request, trace=case.trace, start_s=case.start_s)
            _check_load(load, machine.context)
            bound_s = earliest_s(
                machine.context, machine.costs, trace=case.trace, start_s=case.start_s
            )
            assert load.ttft_s >= bound_s * (1 - 1e-6), f"{name} ended before the oracle"


def _check_load(load: SimulatedLoad, context: Context) -> None:
    sizes = 0
    for chunk, level in zip(context.chunks, load.levels, strict=True):
        if level != TEXT:
            sizes += next(o.size_bytes for o in chunk.options if o.level == level)
    assert load.received_bytes == sizes + load.abandoned_bytes, "bytes do not add up"
