"""The predicted cost of a calibration, and its real one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cachegen.cli.calibration.costs import Costs, rough
from cachegen.cli.memory import gigabytes, peak_bytes
from cachegen.cli.pace import duration


@dataclass(slots=True)
class Account:
    """The account of a run, from its prediction on.

    Attributes:
        costs: the prediction.
        clock: in seconds.
        peak: gives the most bytes that were resident; None where the system does not tell.
    """

    costs: Costs
    clock: Callable[[], float] = time.monotonic
    peak: Callable[[], int | None] = peak_bytes
    began_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.began_s = self.clock()

    @property
    def prediction(self) -> str:
        """One line for people."""
        return f"this will take {self.costs.describe()}"

    def ended(self, how: str) -> str:
        """One line for people: the time and the memory that it took, beside the predicted ones."""
        took = duration(self.clock() - self.began_s)
        peak = self.peak()
        memory = "unknown" if peak is None else gigabytes(peak)
        return (
            f"{how} after {took} (predicted: about {rough(self.costs.total_s)}); peak memory "
            f"{memory} (predicted: about {gigabytes(self.costs.peak_bytes)})"
        )


def how_it_ended(exc: BaseException) -> str:
    """How a run ended that did not finish: interrupted or failed."""
    if isinstance(exc, KeyboardInterrupt):
        return "interrupted"
    return f"failed ({type(exc).__name__}: {exc})"
