"""What a calibration was said to cost, and what it cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cachegen.cli.calibration.costs import Costs, rough
from cachegen.cli.memory import gigabytes, peak_bytes
from cachegen.cli.pace import duration


@dataclass(slots=True)
class Account:
    """Begins with the prediction.

    Attributes:
        costs: predicted.
        clock: in seconds.
        peak: bytes that were resident at most; None where nobody knows.
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
    """Of work that did not finish."""
    if isinstance(exc, KeyboardInterrupt):
        return "interrupted"
    return f"failed ({type(exc).__name__}: {exc})"
