"""What calibration learns from: one context at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from cachegen.codec.calibration.checkpoint import Checkpoint, Saved
from cachegen.codec.calibration.progress import Progress, Status, silent
from cachegen.codec.levels import Quality
from cachegen.kvcache import KVCache

# What coding and decoding does to a cache of these tokens.
RoundTrip = Callable[[KVCache, Sequence[int]], KVCache]
# The quality by domain of continuations after a round trip of held-out caches.
Evaluate = Callable[[RoundTrip], Mapping[str, Quality]]


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """A context to learn from.

    Attributes:
        tokens: int64 (tokens,).
        kv: the cache of exactly these tokens, from position 0.
        gradient: float32, of the same shapes, or None: the gradient, with respect to kv's values
            as they are cached (keys rotated), of sum_s log p(y_s), where the y_s are
            `continuation_tokens` tokens, each drawn from the model's own prediction at the s-th
            place of the text that really follows. The tokens of a context may take turns, each
            with draws of its own.
        continuation_tokens: 0 without a gradient.
        state: what the source needs to go on after this sample, to itself; empty where nothing.
    """

    tokens: np.ndarray
    kv: KVCache
    gradient: KVCache | None
    continuation_tokens: int
    state: bytes = b""


@dataclass(frozen=True, slots=True)
class Position:
    """A place among the samples: behind the first `count`, with the `state` of the last of them."""

    count: int = 0
    state: bytes = b""


START = Position()


class Samples(Protocol):
    """Gives the contexts to learn from, in the same order at every call."""

    def __call__(self, after: Position = START, /) -> Iterable[Sample]:
        """Those behind a position; called with one only to take up a run that was cut off."""


@dataclass(frozen=True, slots=True, eq=False)
class Passes:
    """Passes over the samples: how far they are is told, and kept.

    Attributes:
        samples: the contexts.
        num_samples: how many there are; None where nobody knows.
        checkpoint: keeps what was made of the samples so far.
        progress: told after every sample.
    """

    samples: Samples
    num_samples: int | None = None
    checkpoint: Checkpoint = field(default_factory=lambda: Checkpoint(None))
    progress: Progress = silent

    def over(
        self,
        phase: str,
        after: Position = START,
        *,
        keep: Callable[[Position], Saved] | None = None,
        keep_last: bool = False,
    ) -> Iterator[Sample]:
        """The samples behind a position.

        Args:
            phase: what the pass is for, as progress says it and the checkpoint keeps it.
            after: samples that need not be seen again.
            keep: what to keep, once every sample up to the position is worked in.
            keep_last: keep it after the last sample in any case, for long work that follows.

        Raises:
            ValueError: a sample holds NaN or infinities.
        """
        position, kept = after, after.count
        self.progress(Status(phase, after.count, self.num_samples))
        for sample in self.samples(after) if after.count else self.samples():
            _check_finite(sample, position.count + 1)
            yield sample
            position = Position(position.count + 1, sample.state)
            self.progress(Status(phase, position.count, self.num_samples))
            if keep is not None and self.checkpoint.is_due():
                self.checkpoint.save(phase, keep(position))
                kept = position.count
        if keep is not None and keep_last and kept < position.count:
            self.checkpoint.save(phase, keep(position))


def _check_finite(sample: Sample, number: int) -> None:
    """Refuse NaN where they first come up, not after all samples are computed."""
    for kv, what in ((sample.kv, "keys and values"), (sample.gradient, "gradients")):
        if kv is not None and not all(_is_finite(plane) for plane in kv.planes()):
            raise ValueError(
                f"expected finite {what}, got NaN or infinities in sample {number}; does the "
                f"model overflow in {str(sample.kv.dtype).removeprefix('torch.')}?"
            )


def _is_finite(plane: torch.Tensor) -> bool:
    """In float32: torch cannot ask 8-bit floats."""
    return bool(torch.isfinite(plane.float()).all())
