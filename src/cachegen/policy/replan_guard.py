"""When a controller that left the model idle is worth asking again."""

from __future__ import annotations

from dataclasses import dataclass

from cachegen.policy.controller import LoadState

_CHANGE = 0.05
_LONGEST_S = 0.1


@dataclass(frozen=True, slots=True)
class ReplanGuard:
    """What was known when the model was left idle.

    As long as all goes as planned the answer stays the same, and plans cost time.

    Attributes:
        at_s: when that was, on the load's clock.
        front: the chunk that waited for the model.
        bytes_per_s: the throughput counted on.
        model_share: how many loads took turns at the model.
    """

    at_s: float
    front: int
    bytes_per_s: float | None
    model_share: int

    @classmethod
    def of(cls, state: LoadState) -> ReplanGuard:
        """The model is left idle in this state."""
        return cls(state.now_s, state.front, _counted_on(state), state.model_share)

    def holds(self, state: LoadState) -> bool:
        """Whether nothing has changed since that could change the answer.

        Never without a throughput, and not for longer than a tenth of a second.
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
