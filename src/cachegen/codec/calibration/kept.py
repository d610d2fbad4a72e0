"""Some rows of every sample, kept so that no context is computed twice.

What tokens weigh is fitted to them, and tables, bounds and out-of-distribution scores are counted
over them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cachegen.codec.calibration.checkpoint import Checkpoint, Saved
from cachegen.codec.transform.analysis import Analysed, analyse_rows
from cachegen.codec.transform.basis import Transform, features_before, float32, ids_before, residual

ROWS = "rows"
# Of all samples together; the rows of larger ones are farther apart. Arbitrary: 3 * 10^8 to 10^10
# do, as memory allows: 48 samples of 1,536 tokens of SmolLM2 would take 3.4 GB.
MOST_BYTES = 1e9
# Below 65,504, the largest number of float16.
_LARGEST_FLOAT16 = 60_000.0
# A value and its gradient, two bytes each.
_BYTES_PER_VALUE = 4


@dataclass(frozen=True, slots=True, eq=False)
class KeptRows:
    """Rows of a sample, per layer group.

    Attributes:
        tokens: int64 (tokens,), all of the sample's.
        places: int64 (rows,): which tokens the rows are.
        x: float16 or float32 (rows, columns), un-rotated keys, and values.
        g: likewise, their gradients times `gradient_scale`.
        gradient_scale: a power of two.
    """

    tokens: np.ndarray
    places: np.ndarray
    x: tuple[np.ndarray, ...]
    g: tuple[np.ndarray, ...]
    gradient_scale: float

    def analysed(self, transform: Transform) -> Analysed:
        """The rows as `analyse` has them, without sinks."""
        features = self._features(transform)
        residuals = [
            residual(group, torch.tensor(x, dtype=torch.float32), features)
            for x, group in zip(self.x, transform.groups, strict=True)
        ]
        last = len(self.tokens) - 1
        return analyse_rows(transform, residuals, positions=self.places, last=last)

    def information(self, transform: Transform) -> torch.Tensor:
        """Float64 (rows,): squared gradients with respect to the coefficients, summed."""
        found = torch.zeros(len(self.places))
        for g, group in zip(self.g, transform.groups, strict=True):
            slopes = float32(g) @ float32(group.synthesis).T
            found += slopes.square_().sum(dim=1)
        return found.double() / self.gradient_scale**2

    def _features(self, transform: Transform) -> torch.Tensor:
        ids = ids_before(self.tokens, num_lags=len(transform.features), num_rows=len(self.tokens))
        rows = torch.zeros(len(self.places), transform.num_features)
        features_before(rows.numpy(), transform, [own[self.places] for own in ids])
        return rows


def places_kept(num_tokens: int, num_sinks: int, *, most_rows: int) -> np.ndarray:
    """Int64 (rows,): at most so many tokens without sinks, evenly spread, ascending."""
    count = num_tokens - num_sinks
    stride = max(1, -(-count // most_rows))
    return np.arange(num_tokens - 1 - stride // 2, num_sinks - 1, -stride)[::-1].copy()


def most_rows(values_per_token: int, num_samples: int | None) -> int:
    """How many rows of each sample stay within the size of all of them."""
    every = _BYTES_PER_VALUE * max(values_per_token, 1) * (num_samples or 1)
    return max(16, int(MOST_BYTES) // every)


def keep(
    tokens: np.ndarray,
    places: np.ndarray,
    x: Sequence[torch.Tensor],
    g: Sequence[torch.Tensor],
) -> KeptRows:
    """The rows of a sample at these places.

    Args:
        tokens: of the sample.
        places: int64 (rows,), tokens.
        x: per group float32 (rows, columns), at the places.
        g: likewise, gradients.
    """
    largest = max((float(one.abs().max()) for one in g if one.numel()), default=0.0)
    scale = 2.0 ** np.floor(np.log2(1024.0 / largest)) if largest > 0 else 1.0
    return KeptRows(
        tokens,
        places,
        tuple(_narrow(one) for one in x),
        tuple(_narrow(one * scale) for one in g),
        scale,
    )


def _narrow(rows: torch.Tensor) -> np.ndarray:
    fits = not rows.numel() or float(rows.abs().max()) < _LARGEST_FLOAT16
    found: np.ndarray = rows.to(torch.float16 if fits else torch.float32).numpy()
    return found


def save(checkpoint: Checkpoint, number: int, kept: KeptRows) -> None:
    """Keep the rows of a sample on disk."""
    arrays = {"tokens": kept.tokens, "places": kept.places}
    arrays |= {f"x.{index}": one for index, one in enumerate(kept.x)}
    arrays |= {f"g.{index}": one for index, one in enumerate(kept.g)}
    checkpoint.save(f"{ROWS}-{number}", Saved(arrays, {"gradient_scale": kept.gradient_scale}))


def load(checkpoint: Checkpoint, number: int) -> KeptRows | None:
    """The rows of a sample that were kept on disk; None where they are not."""
    saved = checkpoint.load(f"{ROWS}-{number}")
    if saved is None:
        return None
    arrays = saved.arrays
    count = sum(name.startswith("x.") for name in arrays)
    x, g = (tuple(arrays[f"{name}.{index}"] for index in range(count)) for name in ("x", "g"))
    return KeptRows(arrays["tokens"], arrays["places"], x, g, float(saved.state["gradient_scale"]))
