"""Deadlines met over links that vary by ten times while a load goes on, by policy.

The links are simulated (`cachegen.simulation.varying`), what a load costs is measured: bytes of the
stored levels, seconds of prefill and of decoding on this machine. Controllers take these seconds
for up to a fifth more or less than they are, and know of the link what it carried ten seconds
before. All policies and deadlines get the same links.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cachegen.codec.levels import PACKED, RAW, TEXT
from cachegen.codec.profile import Profile
from cachegen.evaluation.methods.registry import OURS
from cachegen.evaluation.results import Row, Slo
from cachegen.simulation.quality import kl_of_chunks
from cachegen.simulation.scenario import SimulatedLoad
from cachegen.simulation.specs import Policy, parse_policy
from cachegen.simulation.varying import Case, Machine, draw_case, families, load_of

# The coder with the same numbers as level `packed`.
_INT8 = ("uniform", "8")
_KINDS = {
    "norway": "mobile links (Norway)",
    "puffer": "home links (Puffer)",
    "random": "random rates, as the paper",
    "steps": "steps of ten times",
}


@dataclass(frozen=True, slots=True)
class Deadlines:
    """What is simulated.

    Attributes:
        loads: over each kind of link.
        shares: deadlines, as shares of the time to compute everything. Arbitrary: any do that have
            loads both met and missed.
    """

    loads: int
    shares: Sequence[float]


QUICK = Deadlines(loads=40, shares=(0.1, 0.2, 0.4, 0.8, 1.2))
FULL = Deadlines(loads=250, shares=(0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.2))


def deadlines_met(
    machine: Machine,
    deadlines: Deadlines,
    *,
    default: str,
    kl: Mapping[str, float],
    seed: int,
) -> Iterator[Slo]:
    """Shares of loads that end in time.

    Args:
        machine: a context and its costs.
        deadlines: what is simulated.
        default: name of the default level.
        kl: nats per token by level, where they are known.
        seed: of the links.
    """
    seeing = {
        f"{OURS} adaptive": parse_policy("min_ttft"),
        "algorithm 1 (paper)": parse_policy("algorithm1"),
    }
    blind = {
        f"{OURS} {default}": parse_policy(f"fixed:{default}"),
        "8-bit": parse_policy(f"fixed:{PACKED}"),
        TEXT: parse_policy(TEXT),
    }
    for family, make in families().items():
        draw = random.Random(f"{seed} {family}")
        cases = [draw_case(family, make, machine, draw) for _ in range(deadlines.loads)]
        known = {name: _loads(policy, machine, cases) for name, policy in blind.items()}
        for share in deadlines.shares:
            slo_s = share * machine.text_s
            found = {n: _loads(one, machine, cases, slo_s=slo_s) for n, one in seeing.items()}
            for name, loads in (found | known).items():
                yield Slo(
                    trace=_KINDS.get(family, family),
                    deadline_s=slo_s,
                    policy=name,
                    met=statistics.fmean(load.ttft_s <= slo_s for load in loads),
                    n=len(loads),
                    mean_kl=_mean_kl(loads, kl),
                )


def kl_of_levels(rows: Sequence[Row], profile: Profile | None) -> dict[str, float]:
    """Nats per token by level: means of this run's rows, else as calibration measured them.

    `packed` counts as 8-bit quantisation, whose numbers are the same.
    """
    levels = profile.levels if profile else ()
    known = {level.name: level.quality.kl for level in levels if level.quality} | {RAW: 0.0}
    own = OURS if profile else "adaptive"
    for level in {row.level for row in rows if row.method == own}:
        known[level] = _mean_of(rows, (own, level))
    if any((row.method, row.level) == _INT8 for row in rows):
        known[PACKED] = _mean_of(rows, _INT8)
    return known


def _mean_of(rows: Sequence[Row], point: tuple[str, str]) -> float:
    return statistics.fmean(row.kl for row in rows if (row.method, row.level) == point)


def _loads(
    policy: Policy, machine: Machine, cases: Sequence[Case], *, slo_s: float | None = None
) -> list[SimulatedLoad]:
    return [load_of(policy, machine, case, slo_s=slo_s) for case in cases]


def _mean_kl(loads: Sequence[SimulatedLoad], kl: Mapping[str, float]) -> float | None:
    """Over all chunks; None where one has a level of unknown quality."""
    try:
        return statistics.fmean(one for load in loads for one in kl_of_chunks(load.levels, kl))
    except KeyError:
        return None
