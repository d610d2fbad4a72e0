"""Bandwidth over time: piecewise constant and periodic."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise

_BYTES_PER_MBIT = 1e6 / 8


@dataclass(frozen=True, slots=True)
class Trace:
    """The bandwidth of a link over time; after its end it starts again.

    Attributes:
        name: a name for people.
        durations_s: duration of each piece.
        bytes_per_s: bandwidth during each piece.
    """

    name: str
    durations_s: tuple[float, ...]
    bytes_per_s: tuple[float, ...]
    _ends_s: list[float] = field(init=False, repr=False, compare=False)
    _sums: list[float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the pieces.

        Raises:
            ValueError: there are no pieces, counts differ, a duration is not positive, a rate is
                negative or not finite, or all rates are zero.
        """
        if not self.durations_s or len(self.durations_s) != len(self.bytes_per_s):
            raise ValueError(
                f"trace {self.name}: expected as many rates as durations and at least one, "
                f"got {len(self.bytes_per_s)} and {len(self.durations_s)}"
            )
        if not all(0 < duration < math.inf for duration in self.durations_s):
            raise ValueError(f"trace {self.name}: expected positive durations")
        if not all(0 <= rate < math.inf for rate in self.bytes_per_s) or not any(self.bytes_per_s):
            raise ValueError(f"trace {self.name}: expected rates of at least 0, and one above it")
        carried = (d * r for d, r in zip(self.durations_s, self.bytes_per_s, strict=True))
        object.__setattr__(self, "_ends_s", list(accumulate(self.durations_s)))
        object.__setattr__(self, "_sums", list(accumulate(carried)))

    @property
    def period_s(self) -> float:
        """Its duration."""
        return self._ends_s[-1]

    @property
    def mean_bytes_per_s(self) -> float:
        """Its mean bandwidth."""
        return self._sums[-1] / self.period_s

    def scaled(self, mean_mbit_s: float) -> Trace:
        """The same shape with another mean.

        Raises:
            ValueError: the mean is not positive.
        """
        if not mean_mbit_s > 0:
            raise ValueError(f"expected a mean above 0 Mbit/s, got {mean_mbit_s}")
        factor = mean_mbit_s * _BYTES_PER_MBIT / self.mean_bytes_per_s
        return replace(self, bytes_per_s=tuple(rate * factor for rate in self.bytes_per_s))

    def sped_up(self, factor: float) -> Trace:
        """The same rates, changing ``factor`` times as fast.

        Raises:
            ValueError: the factor is not positive.
        """
        if not factor > 0:
            raise ValueError(f"expected a factor above 0, got {factor}")
        return replace(self, durations_s=tuple(d / factor for d in self.durations_s))

    def pieces(self, start_s: float = 0.0) -> Iterator[tuple[float, float]]:
        """Yield end time and bytes per second of each piece, forever, from `start_s` on."""
        inside = start_s % self.period_s
        index = min(bisect_right(self._ends_s, inside), len(self._ends_s) - 1)
        origin = -inside
        while True:
            for piece in range(index, len(self._ends_s)):
                yield origin + self._ends_s[piece], self.bytes_per_s[piece]
            origin += self.period_s
            index = 0

    def carried_bytes(self, until_s: float) -> float:
        """Bytes carried from its beginning to a time."""
        cycles, inside = divmod(until_s, self.period_s)
        index = min(bisect_right(self._ends_s, inside), len(self._ends_s) - 1)
        missing = (self._ends_s[index] - inside) * self.bytes_per_s[index]
        return cycles * self._sums[-1] + self._sums[index] - missing

    def seconds_for(self, num_bytes: float, *, start_s: float = 0.0) -> float:
        """Seconds that ``num_bytes`` take from `start_s` on, with the link to themselves."""
        if num_bytes <= 0:
            return 0.0
        cycles, inside = divmod(self.carried_bytes(start_s) + num_bytes, self._sums[-1])
        index = min(bisect_right(self._sums, inside), len(self._sums) - 1)
        surplus = self._sums[index] - inside
        rate = self.bytes_per_s[index]
        end_s = self._ends_s[index] - (surplus / rate if rate else 0.0)
        return max(cycles * self.period_s + end_s - start_s, 0.0)


def constant(mbit_s: float) -> Trace:
    """A trace of one rate.

    Raises:
        ValueError: the rate is not positive.
    """
    return Trace(f"constant {mbit_s:g} Mbit/s", (1.0,), (mbit_s * _BYTES_PER_MBIT,))


def step(pieces: Sequence[tuple[float, float]], *, name: str = "step") -> Trace:
    """A trace of pieces (seconds, Mbit/s), one after the other."""
    durations = tuple(seconds for seconds, _ in pieces)
    return Trace(name, durations, tuple(rate * _BYTES_PER_MBIT for _, rate in pieces))


def random_trace(
    seed: int, *, low_mbit_s: float, high_mbit_s: float, every_s: float, num_pieces: int = 512
) -> Trace:
    """A trace of rates drawn uniformly between two, a new one every `every_s` seconds.

    It repeats after `num_pieces` of them. Arbitrary: any number above the pieces of a load does.
    """
    draw = random.Random(seed)
    pieces = [(every_s, draw.uniform(low_mbit_s, high_mbit_s)) for _ in range(num_pieces)]
    return step(pieces, name=f"random {seed}")


def from_samples(samples: Iterable[tuple[float, float]], *, name: str) -> Trace:
    """A trace from samples (time in seconds, Mbit/s): each rate holds until the next time.

    The last one holds as long as the one before it.

    Raises:
        ValueError: there are fewer than two samples, or times do not rise.
    """
    known = list(samples)
    if len(known) < 2:
        raise ValueError(f"trace {name}: expected at least two samples, got {len(known)}")
    durations = [after - before for (before, _), (after, _) in pairwise(known)]
    return step(
        list(zip([*durations, durations[-1]], (rate for _, rate in known), strict=True)), name=name
    )
