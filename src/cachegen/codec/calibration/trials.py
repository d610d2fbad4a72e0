"""Steps that are tried, and what was measured at each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from cachegen.codec.calibration.checkpoint import Checkpoint, Saved
from cachegen.codec.calibration.progress import Progress, Status
from cachegen.codec.calibration.sample import Evaluate, RoundTrip
from cachegen.codec.levels import LADDER, Quality, worst
from cachegen.codec.symbols import Unrepresentable

_UNUSABLE = {"": Quality(kl=math.inf, rel_ppl=math.inf, top1=0.0, num_tokens=0)}

Measure = Callable[[float], Mapping[str, Quality]]


def measuring(roundtrip: Callable[[float], RoundTrip], evaluate: Evaluate) -> Measure:
    """Measures what coding at a step costs."""
    return lambda step: evaluate(roundtrip(step))


@dataclass(frozen=True, slots=True)
class Placed:
    """A step and what was measured at it: the worst over the domains, and each of them."""

    step: float
    quality: Quality
    domains: Mapping[str, Quality]

    @property
    def is_finite(self) -> bool:
        """Whether every number measured is one that a profile can hold."""
        return all(map(_is_finite, self.domains.values()))


@dataclass(slots=True)
class Trials:
    """Steps that were tried: told, kept, and never tried twice.

    Attributes:
        measure: the quality by domain of coding at a step.
        checkpoint: keeps what was measured.
        progress: told about every trial.
        phase: what the trials are for, as progress says it and the checkpoint keeps it.
        known: all trials.
        asked: those of this run; one that was cut off asks for the same again.
    """

    measure: Measure
    checkpoint: Checkpoint
    progress: Progress
    phase: str
    known: dict[float, Mapping[str, Quality]] = field(default_factory=dict)
    asked: dict[float, Mapping[str, Quality]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        saved = self.checkpoint.load(self.phase)
        for step, domains in saved.state["trials"] if saved else []:
            self.known[step] = {name: Quality(**one) for name, one in domains.items()}

    def __call__(self, step: float, *, level: str, done: int = len(LADDER)) -> Placed:
        """Try a step for a level, behind so many that are placed."""
        again = " (known)" if step in self.known else ""
        if step not in self.known:
            self.known[step] = self._measured(step)
            self.checkpoint.save(self.phase, Saved(state={"trials": self._described()}))
        domains = self.asked[step] = self.known[step]
        quality = worst(domains)
        said = f"trial for level {level}: step {step:.4g}, KL {quality.kl:.5f}{again}"
        self.progress(Status(self.phase, done, len(LADDER), said))
        return Placed(step, quality, domains)

    def _measured(self, step: float) -> Mapping[str, Quality]:
        try:
            return dict(self.measure(step))
        except Unrepresentable:
            return _UNUSABLE

    def _described(self) -> list[Any]:
        return [
            (step, {name: asdict(one) for name, one in domains.items()})
            for step, domains in self.known.items()
        ]


def _is_finite(quality: Quality) -> bool:
    numbers = (getattr(quality, one.name) for one in fields(quality))
    return all(number is None or math.isfinite(number) for number in numbers)
