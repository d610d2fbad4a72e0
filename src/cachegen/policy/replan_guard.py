"""Whether a controller that left the model idle would now decide otherwise."""

from __future__ import annotations

from dataclasses import dataclass

from cachegen.policy.controller import LoadState

# Arbitrary: 0.01 to 0.2, and 0.02 to 0.5 s, end loads alike (200 simulated loads on links of
# simulation/varying.py, by hand); a tenth of a second is what `Controller.choose`
# promises.
_CHANGE = 0.05
_LONGEST_S = 0.1


@dataclass(frozen=True, slots=True)
class ReplanGuard:
    """What was known when the controller left the model idle; unchanged, it saves planning again.

    Attributes:
        at_s: when that was, in seconds on the load's clock.
        front: index of the chunk that waited for the model.
        bytes_per_s: the throughput that plans counted on.
        model_share: how many loads shared the model.
    """

    at_s: float
    front: int
    bytes_per_s: float | None
    model_share: int

    @classmethod
    def of(cls, state: LoadState) -> ReplanGuard:
        """A guard for a model left idle in this state."""
        return cls(state.now_s, state.front, _counted_on(state), state.model_share)

    def holds(self, state: LoadState) -> bool:
        """Whether nothing has changed since that could change the decision.

        False while the throughput is unknown, and after a tenth of a second.
        """
        before, now = self.bytes_per_s, _counted_on(state)
        return (
            before is not None
            and now is not None
            and abs(now - before) <= _CHANGE * before
            and state.front == self.front
            and state.model_share == self.model_share
            and state.now_s - self.at_s < _LONGEST_S
        )


def _counted_on(state: LoadState) -> float | None:
    return state.low_bytes_per_s or state.bytes_per_s
