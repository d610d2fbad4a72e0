"""From planes to coefficients: the first half of preset `transform`.

The leading coefficients of every token are computed at once. How many more a token needs, its class
tells, which follows from them; so no product is larger than what will be coded. What lies beyond is
measured by a few random mixtures of it, see `tails`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from weakref import WeakKeyDictionary

import numpy as np
import torch

from cachegen.codec.fixed import pack_planes
from cachegen.codec.matrix import coded_planes, sinks_among
from cachegen.codec.rope import RopeMap
from cachegen.codec.transform.basis import (
    GUARD_COLUMNS,
    PRECISE,
    LayerGroup,
    Transform,
    fill_features,
    float32,
    residual,
)
from cachegen.codec.transform.importance import counted_rows
from cachegen.kvcache import KVCache

# FORMAT.md, section 6: coefficients of every token that are computed at once; weights and scores
# look at no others. Computing all of them took twice the time of encoding (see
# docs/decisions/2026-11-29-token-weights.md). With 256 SmolLM2 takes the same bits, within 0.2%, at
# a KL within 3% (docs/LOG.md, 2026-11-29, tuned constants).
LEADING = 512
# FORMAT.md, section 6: nats per coefficient and row that mean squares of few rows show by chance,
# (kurtosis - 1) / 4: 0.5 for normal coefficients, 4 for heavy tails with a kurtosis of 17.
_CHANCE = 4.0
_ECHOES: WeakKeyDictionary[LayerGroup, torch.Tensor] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True, eq=False)
class Analysed:
    """A cache before quantisation.

    Attributes:
        transform: that it is analysed with.
        residuals: per group float32 (rows, columns): without means and prediction.
        leading: per group float32 (rows, coefficients): the first of them, in units.
        log_weights: float32 (rows,), what each token weighs; zeros where all weigh the same.
        sinks: the arrays `scales` and `codes` of the sinks.
        counted_rows: over how many tokens costs are means.
    """

    transform: Transform
    residuals: tuple[torch.Tensor, ...]
    leading: tuple[torch.Tensor, ...]
    log_weights: torch.Tensor
    sinks: dict[str, np.ndarray]
    counted_rows: float

    @property
    def num_rows(self) -> int:
        """Tokens without sinks."""
        return len(self.log_weights)

    def coefficients(
        self, group: int, *, rows: np.ndarray | None = None, counts: np.ndarray
    ) -> torch.Tensor:
        """The first coefficients of some rows, with zeros behind them: float32 (rows, most), units.

        Args:
            group: which.
            rows: int64 (n,), which rows; all of them, in order, where that is None.
            counts: int64 (n,): of each row so many coefficients are wanted; falling.
        """
        leading, residuals = self.leading[group], self.residuals[group]
        if rows is not None:
            leading, residuals = leading[rows], residuals[rows]
        most = int(counts.max(initial=0))
        known = leading.shape[1]
        if most <= known:
            return leading[:, :most]
        analysis = self.transform.groups[group].analysis
        found = torch.zeros(len(counts), most)
        found[:, :known] = leading
        ends = [known, *np.unique(counts[counts > known]).tolist()]
        for first, stop in pairwise(ends):
            deep = int(np.count_nonzero(counts >= stop))
            own = found[:deep, first:stop]
            torch.mm(residuals[:deep], float32(analysis[:, first:stop]), out=own)
            heard = echoes(self.transform.groups[group])[:, first - PRECISE : stop - PRECISE]
            own.addmm_(leading[:deep, :PRECISE], heard, alpha=-1)
        return found


def analyse(
    kv: KVCache, tokens: Sequence[int] | np.ndarray, transform: Transform, rope: RopeMap
) -> Analysed:
    """The coefficients of a complete cache of these tokens.

    Raises:
        Unrepresentable: a sink holds NaN or infinities.
    """
    skipped = sinks_among(kv.start, kv.num_tokens, most=transform.num_sinks)
    features = torch.empty(kv.num_tokens - skipped, transform.num_features)
    fill_features(features.numpy(), transform, tokens)
    planes = dict(coded_planes(kv, rope, most_sinks=transform.num_sinks))
    sinks = pack_planes([p[:, :skipped] for p in kv.planes()])
    return analyse_rows(
        transform,
        [
            residual(group, torch.cat([planes[plane] for plane in group.planes], dim=1), features)
            for group in transform.groups
        ],
        positions=np.arange(kv.start + skipped, kv.stop),
        last=kv.stop - 1,
        sinks=sinks,
    )


def analyse_rows(
    transform: Transform,
    residuals: Sequence[torch.Tensor],
    *,
    positions: np.ndarray,
    last: int,
    sinks: dict[str, np.ndarray] | None = None,
) -> Analysed:
    """The coefficients of rows of a cache.

    Args:
        transform: learned.
        residuals: per group float32 (rows, columns), see `residual`.
        positions: int64 (rows,), absolute.
        last: absolute position of the chunk's last token.
        sinks: the arrays of the tokens that are no rows.
    """
    leading = tuple(
        _leading(rows, group) for rows, group in zip(residuals, transform.groups, strict=True)
    )
    log_weights, rows = torch.zeros(len(positions)), float(max(len(positions), 1))
    if transform.importance is not None:
        spreads = [group.variances for group in transform.groups]
        log_weights = transform.importance.log_weights(
            leading, spreads, positions=positions, last=last
        )
        rows = counted_rows(positions)
    return Analysed(transform, tuple(residuals), leading, log_weights, sinks or {}, rows)


def _leading(rows: torch.Tensor, group: LayerGroup) -> torch.Tensor:
    """The leading coefficients of residuals: float32 (rows, coefficients)."""
    stop = min(LEADING, len(group.variances))
    found = rows @ float32(group.analysis[:, :stop])
    found[:, PRECISE:].addmm_(
        found[:, :PRECISE].clone(), echoes(group)[:, : stop - PRECISE], alpha=-1
    )
    return found


def echoes(group: LayerGroup) -> torch.Tensor:
    """What each further coefficient hears of the precise ones, since it is rounded to eight bits.

    Without rounding it would be zeros. To be taken off, lest large coefficients be heard in small
    ones; computed at the first call.

    Returns:
        float32 (precise coefficients, the others).
    """
    if group not in _ECHOES:
        further = float32(group.analysis[:, PRECISE : len(group.variances)])
        _ECHOES[group] = float32(group.synthesis[:PRECISE]) @ further
    return _ECHOES[group]


def tails(group: LayerGroup, counts: Sequence[int]) -> torch.Tensor:
    """Random mixtures of what lies beyond so many coefficients, for each of the counts.

    They begin behind the leading coefficients, which are known. Squares of a row's mixtures add up,
    on average, to the energy of all that is beyond: the sum over n rows of a tail of d directions
    alike errs by about sqrt(2 / d / GUARD_COLUMNS), however large n is.

    Returns:
        float32 (columns, counts * GUARD_COLUMNS).
    """
    generator = torch.Generator().manual_seed(0)

    def mixture(columns: np.ndarray) -> torch.Tensor:
        mix = torch.randn(columns.shape[1], GUARD_COLUMNS, generator=generator)
        return float32(columns).mm(mix / GUARD_COLUMNS**0.5)

    known = len(group.variances)
    guards = group.analysis[:, known:]
    beyond = {known: float32(guards) if guards.shape[1] == GUARD_COLUMNS else mixture(guards)}
    first = [max(count, min(LEADING, known)) for count in counts]
    for after, before in pairwise(sorted({known, *first}, reverse=True)):
        beyond[before] = beyond[after] + mixture(group.analysis[:, before:after])
    found = torch.cat([beyond[count] for count in first], dim=1)
    heard = float32(group.synthesis[:PRECISE]) @ found
    return found.addmm_(float32(group.analysis[:, : len(heard)]), heard, alpha=-1)


def tail_energies(
    analysed: Analysed, group: int, mixtures: torch.Tensor, counts: Sequence[int]
) -> torch.Tensor:
    """Of every row, beyond each of the counts of its `tails`: float64 (counts, rows)."""
    rows, leading = analysed.residuals[group], analysed.leading[group]
    mixed = rows.mm(mixtures).view(len(rows), len(counts), GUARD_COLUMNS)
    found = mixed.square_().sum(dim=2).double().t()
    for energies, count in zip(found, counts, strict=True):
        energies += leading[:, count:].square().sum(dim=1)
    return found


def distance(one: Analysed, other: Analysed) -> float:
    """What it costs to have one cache in place of another, nats per token, to second order."""
    transform, lost = one.transform, 0.0
    weights = one.log_weights.exp()
    pairs = zip(one.residuals, other.residuals, transform.groups, strict=True)
    for left, right, group in pairs:
        apart = (left - right) @ float32(group.analysis)
        known = apart[:, PRECISE : len(group.variances)]
        known.addmm_(apart[:, :PRECISE].clone(), echoes(group), alpha=-1)
        lost += float((apart.square_().sum(dim=1) * weights).sum(dtype=torch.float64))
    return transform.unit**2 * lost / one.counted_rows


def ood_score(analysed: Analysed, *, num_active: Sequence[int]) -> float:
    """How far a chunk's leading coefficients are from those the transform has learned of.

    The Kullback-Leibler divergence, nats per coefficient, between normal distributions with the
    mean squares of this chunk and with those learned; what so few rows show by chance is taken off.

    Args:
        analysed: the chunk.
        num_active: of each group, at most so many coefficients are looked at.
    """
    found, count = 0.0, 0
    if not analysed.num_rows:
        return 0.0
    for leading, group, active in zip(
        analysed.leading, analysed.transform.groups, num_active, strict=True
    ):
        own = leading[:, :active].square().mean(dim=0, dtype=torch.float64)
        learned = torch.from_numpy(group.variances[: len(own)]).double()
        ratio = own.clamp_min(1e-12) / learned.clamp_min(1e-12)
        found += float((ratio - 1 - ratio.log()).sum()) / 2
        count += len(own)
    return max(found / max(count, 1) - _CHANCE / analysed.num_rows, 0.0)
