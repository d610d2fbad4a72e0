"""How much each token will matter to what follows, told by the token itself.

The Fisher information of a token's keys and values spans orders of magnitude: tokens that attention
comes back to, and those right before the text that goes on, matter most. Calibration fits the
logarithm of it to what an encoder knows of a token, and tokens are quantised with steps inversely
proportional to its square root: the allocation that costs least bits at a given sum of losses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

# All of these are in FORMAT.md, section 6, too.
# A token's step is its multiplier, 1 to 63, eighths of the level's step.
ONE = 8
LARGEST_MULTIPLIER = 63
# Tokens whose multipliers have their highest bit in common are coded together, finest first.
NUM_CLASSES = 6
FINEST_OF_CLASS = tuple(1 << index for index in range(NUM_CLASSES))

# Where the slope of the logarithm changes, in logarithms to base 2 of the distance plus 1: every
# two octaves (docs/decisions/2026-11-29-token-weights.md tells how information falls).
_KNOTS = (0.0, 2.0, 4.0, 6.0)
NUM_POSITION_TERMS = 1 + 2 * len(_KNOTS)
# Beyond 256 tokens all distances are the same: what lies far back may be asked for as well, and
# where a chunk ends need not be where the text does.
_FARTHEST_LOG = 8.0
# A chunk behind the first 256 tokens, where distances to the start are all the same, weighs no more
# than a sample as a whole, 1,536 tokens of weight 1: attention is shared among all tokens. Without
# this cap weights grew with the place of a chunk, to 2.4 a token at 3,072 and 3.4 at 6,144 tokens
# of SmolLM2: all samples end at 1,536, and what tells the place tells how near that end is.
_BEGINNING, _WHOLE = 256, 1536.0
# Spreads that a coefficient counts for at most: a normal one is beyond once in 16,000 times.
_FARTHEST = 4.0
# Arbitrary: 10^-6 to 10^-2 do; no token of a text has so little, and 0 has no logarithm.
_LEAST_ENERGY = 1e-3
# Multipliers reach 1 and 63 at 4.2 already; this bounds weights, and `exp` while fitting.
_WIDEST = 12.0


@dataclass(frozen=True, slots=True, eq=False)
class Importance:
    """A linear model of the logarithm of a token's Fisher information.

    Attributes:
        position: float32 (NUM_POSITION_TERMS,), of `position_terms`.
        groups: per layer group float32 (terms,), of `group_terms`.
    """

    position: np.ndarray
    groups: tuple[np.ndarray, ...]

    def log_weights(
        self,
        leading: Sequence[torch.Tensor],
        variances: Sequence[np.ndarray],
        *,
        positions: np.ndarray,
        last: int,
    ) -> torch.Tensor:
        """Natural logarithms float32 (rows,) of what tokens weigh.

        Args:
            leading: per group float32 (rows, coefficients), the first of them.
            variances: per group float32, mean squares of at least those coefficients.
            positions: int64 (rows,), absolute.
            last: absolute position of the chunk's last token.
        """
        found = position_terms(positions, last) @ torch.from_numpy(self.position)
        for own, spread, weights in zip(leading, variances, self.groups, strict=True):
            found += group_terms(own, spread, len(weights)) @ torch.from_numpy(weights)
        found = torch.nan_to_num(found).clamp_(-_WIDEST, _WIDEST)
        if is_behind_the_beginning(positions):
            most = math.log(counted_rows(positions))
            found -= max(float(found.logsumexp(dim=0)) - most, 0.0)
        return found


def is_behind_the_beginning(positions: np.ndarray) -> bool:
    """Whether rows are of a chunk that begins where no sample began."""
    return len(positions) > 0 and int(positions[0]) >= _BEGINNING


def counted_rows(positions: np.ndarray) -> float:
    """Over how many rows a chunk's cost is a mean: its own, or a sample's where those are more.

    Only behind the beginning: a part of a context costs as much less as it is shorter.
    """
    rows = max(len(positions), 1)
    return max(rows, _WHOLE) if is_behind_the_beginning(positions) else rows


def position_terms(positions: np.ndarray, last: int) -> torch.Tensor:
    """Float32 (rows, NUM_POSITION_TERMS): 1, and hinges of how near the end and the start are.

    Args:
        positions: int64 (rows,), absolute.
        last: absolute position of the chunk's last token.
    """
    rows = torch.from_numpy(np.asarray(positions, dtype=np.float32))
    ends = (last - rows, rows)
    distances = [(end + 1).log2().clamp_max(_FARTHEST_LOG) for end in ends]
    hinges = [(distance - knot).clamp_min(0) for distance in distances for knot in _KNOTS]
    return torch.stack([torch.ones_like(rows), *hinges], dim=1)


def group_terms(leading: torch.Tensor, variances: np.ndarray, count: int) -> torch.Tensor:
    """Float32 (rows, count): the first coefficients in units of their spread, and the energy.

    Args:
        leading: float32 (rows, coefficients) of a group, the first of them.
        variances: float32, of at least those coefficients.
        count: so many terms; the last is the logarithm of the energy over its mean.
    """
    learned = torch.from_numpy(variances[: leading.shape[1]]).clamp_min(1e-30)
    first = leading[:, : count - 1] / learned[: count - 1].sqrt()
    energy = leading.square().sum(dim=1) / learned.sum()
    logarithm = energy.clamp_min(_LEAST_ENERGY).log()
    return torch.cat([first.clamp_(-_FARTHEST, _FARTHEST), logarithm[:, None]], dim=1)


def relative_steps(num_classes: int) -> list[float]:
    """Typical steps of the tokens of each class, in steps of the level; 1 if there is but one."""
    if num_classes == 1:
        return [1.0]
    return [math.sqrt(finest * (2 * finest - 1)) / ONE for finest in FINEST_OF_CLASS]


def multipliers(log_weights: torch.Tensor) -> torch.Tensor:
    """Int64 (rows,): steps inversely proportional to the root of the weights, in eighths."""
    ideal = ONE * (-0.5 * log_weights).exp()
    return ideal.round().clamp_(1, LARGEST_MULTIPLIER).long()


def classes_of(multipliers: np.ndarray) -> np.ndarray:
    """Int64 (rows,): the place of each multiplier's highest bit."""
    return np.searchsorted(FINEST_OF_CLASS, multipliers, side="right").astype(np.int64) - 1


def fit(terms: torch.Tensor, information: torch.Tensor, *, penalty: float = 1e-3) -> torch.Tensor:
    """Coefficients float32 (terms,) under which the logarithm of the information is linear.

    Maximises the likelihood of exponential distributions with these means (a generalised linear
    model), so that a sum of information over weights is as small as it can be for its size.

    Args:
        terms: float32 (rows, terms).
        information: float64 (rows,), not negative.
        penalty: of the squares of the coefficients. Arbitrary: 10^-4 to 10^-2 take 0.224 to 0.225
            bits at a KL of 0.003 (docs/LOG.md, 2026-11-29, tuned constants).
    """
    mean = information.mean().clamp_min(1e-300)
    scaled = (information / mean).float()
    found = torch.zeros(terms.shape[1], requires_grad=True)
    solver = torch.optim.LBFGS([found], max_iter=80, history_size=20, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        solver.zero_grad()
        with torch.enable_grad():
            logarithm = (terms @ found).clamp(-_WIDEST, _WIDEST)
            value = (scaled * (-logarithm).exp() + logarithm).mean()
            value = value + penalty * found.square().sum()
            value.backward()  # type: ignore[no-untyped-call]
        return value

    solver.step(loss)  # type: ignore[no-untyped-call]
    return found.detach()
