"""Every policy on the same links with the same deadlines, in the simulator."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cachegen.codec.levels import TEXT
from cachegen.simulation.scenario import SimulatedLoad
from cachegen.simulation.specs import parse_policy
from cachegen.simulation.varying import Machine, draw_case, families, load_of
from deadlines import worlds

ADAPTIVE = "min_ttft"
ADAPTING = [parse_policy(name) for name in (ADAPTIVE, "algorithm1")]
FIXED = [parse_policy(name) for name in (*(f"fixed:{level}" for level in worlds.LEVELS), TEXT)]
ROOM = {"normal": (1.2, 3.0), "tight": (1.0, 1.2)}


@dataclass(frozen=True, slots=True)
class Trial:
    """A policy's load, and how it was judged."""

    machine: str
    family: str
    policy: str
    deadlines: str
    oracle_s: float
    load: SimulatedLoad


def run(
    machines: Sequence[Machine], *, num_loads: int, data: Path | None, seed: int
) -> Iterator[Trial]:
    """Every policy on the same links with the same deadlines."""
    for machine in machines:
        for family, make in families(data).items():
            draw = random.Random(f"{seed} {machine.name} {family}")
            for _ in range(num_loads):
                case = draw_case(family, make, machine, draw)
                blind = {policy.name: load_of(policy, machine, case) for policy in FIXED}
                for deadlines, (low, high) in ROOM.items():
                    slo_s = case.oracle_s * draw.uniform(low, high)
                    seeing = {p.name: load_of(p, machine, case, slo_s=slo_s) for p in ADAPTING}
                    for name, load in {**seeing, **blind}.items():
                        judged = replace(load, slo_s=slo_s)
                        yield Trial(machine.name, family, name, deadlines, case.oracle_s, judged)
