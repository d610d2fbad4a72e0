"""The transform of a model, learned from moments in closed form.

The metric of a layer group is the Fisher information of its keys and values: the mean outer product
of the gradients of the log-probability of what the model itself would say next. To second order the
KL divergence between continuations with and without an error e is half its quadratic form, times
what the token weighs: gradients come in by their direction (see `gather`), and how much the tokens
weigh is fitted apart. The transform is the principal component analysis, in that metric, of what a
linear prediction from the text leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cachegen.codec.calibration.kept import KeptRows
from cachegen.codec.calibration.moments import Moments
from cachegen.codec.transform.basis import GUARD_COLUMNS, PRECISE, LayerGroup, Transform
from cachegen.codec.transform.importance import (
    NUM_POSITION_TERMS,
    Importance,
    fit,
    group_terms,
    position_terms,
)
from cachegen.codec.transform.stored_rows import rounded

# Of the metric, towards one that knows of planes only how much they matter: few samples see few of
# the directions of a model. KL 0.0025 at 1.00 bits, in place of 0.0038 at 0.89 with a ridge of 1%
# (docs/decisions/2026-11-29-token-weights.md).
SHRINKAGE = 0.1
# Of the mean of the diagonal. Arbitrary: 10^-8 to 10^-4 do; planes without gradients need it.
_LEAST_METRIC = 1e-6
# Leading coefficients of a group that tell what a token weighs. At a KL of 0.003 the shipped model
# took 0.223, 0.222 and 0.224 bits with 32, 64 and 128, and 0.239 with 256 (docs/LOG.md, 2026-11-29,
# tuned constants).
_LEADING = 128
# Of the mean of the features' variances. Arbitrary: 10^-4 to 10^-2 take 0.221 to 0.224 bits there.
FEATURE_RIDGE = 1e-3
# Spreads beyond which features are clipped: int8 then has steps of a twentieth of a spread at most.
_CLIP = 6.0


def learn(
    moments: Moments,
    groups: Sequence[tuple[int, ...]],
    features: np.ndarray,
    *,
    lag_ranks: Sequence[int],
    most_coefficients: int,
    num_sinks: int,
    shrinkage: float = SHRINKAGE,
) -> Transform:
    """The transform of the model whose moments these are.

    Args:
        moments: gathered with the same groups and features, and ``len(lag_ranks)`` lags.
        groups: the planes of every layer group.
        features: float32 (vocabulary, features) of a single token.
        lag_ranks: how many features to keep of the token's own, of those of the one before, ...
        most_coefficients: keep at most so many in a group.
        num_sinks: kept in the transform.
        shrinkage: share of a metric that becomes the mean of each plane's diagonal.
    """
    metrics = [
        _metric(moments, gg, [moments.geometry.planes[plane].width for plane in planes], shrinkage)
        for gg, planes in zip(moments.gg, groups, strict=True)
    ]
    text = _TextModel(moments, features, metrics, lag_ranks)
    unit = _unit(moments, metrics)
    found = tuple(
        _group(moments, index, planes, metrics[index], text, unit, most_coefficients)
        for index, planes in enumerate(groups)
    )
    return Transform(found, tuple(text.tables), num_sinks, unit, ood_score=np.inf)


def learn_importance(transform: Transform, rows: Sequence[KeptRows]) -> Importance:
    """What tokens weigh, fitted to the gradients of rows of every sample."""
    terms, information = [], []
    for kept in rows:
        last = len(kept.tokens) - 1
        of_groups = [
            group_terms(own, group.variances, min(_LEADING, len(group.variances)) + 1)
            for own, group in zip(kept.analysed(transform).leading, transform.groups, strict=True)
        ]
        terms.append(torch.cat([position_terms(kept.places, last), *of_groups], dim=1))
        information.append(kept.information(transform))
    found = fit(torch.cat(terms), torch.cat(information)).numpy()
    ends = np.cumsum([NUM_POSITION_TERMS, *(one.shape[1] for one in of_groups)])
    position, *groups = np.split(found, ends[:-1])
    return Importance(position, tuple(groups))


@dataclass(frozen=True, slots=True, eq=False)
class _Metric:
    """A factor of a metric, root root^T, and its inverse: float64 (columns, columns)."""

    root: torch.Tensor
    inverse_root: torch.Tensor


def _metric(moments: Moments, gg: torch.Tensor, widths: Sequence[int], shrinkage: float) -> _Metric:
    """An error e in every token costs |e root|^2 nats for each token that follows."""
    scale = moments.mean_tokens / (2 * max(moments.num_following, 1) * moments.num_tokens)
    fisher = gg * scale
    diagonal = fisher.diagonal()
    level = diagonal.mean().clamp_min(1e-30)
    of_plane = torch.repeat_interleave(torch.tensor(widths))
    sums = torch.zeros(len(widths), dtype=torch.float64).index_add_(0, of_plane, diagonal)
    target = (sums / torch.tensor(widths).clamp_min(1))[of_plane]
    shrunk = (1 - shrinkage) * fisher + torch.diag(shrinkage * target + _LEAST_METRIC * level)
    root = torch.linalg.cholesky(shrunk)
    identity = torch.eye(len(root), dtype=torch.float64)
    return _Metric(root, torch.linalg.solve_triangular(root, identity, upper=False))


def _unit(moments: Moments, metrics: Sequence[_Metric]) -> float:
    """Root mean square of all columns around their means, in the metric."""
    total = sum(
        float(((xx / moments.num_tokens - torch.outer(m, m)) @ metric.root).mul(metric.root).sum())
        for xx, m, metric in zip(
            moments.xx, [x / moments.num_tokens for x in moments.x], metrics, strict=True
        )
    )
    return float(np.sqrt(max(total, 1e-30) / sum(map(len, moments.x))))


class _TextModel:
    """Few features per token, of mean zero, that predict all groups.

    `tables` has one table for each lag; `covariance` and `cross` are the features' moments.
    """

    def __init__(
        self,
        moments: Moments,
        features: np.ndarray,
        metrics: Sequence[_Metric],
        lag_ranks: Sequence[int],
    ) -> None:
        n = moments.num_tokens
        mean = moments.f / n
        centred = moments.ff / n - torch.outer(mean, mean)
        cross = [
            fx / n - torch.outer(mean, x / n) for fx, x in zip(moments.fx, moments.x, strict=True)
        ]
        ridge = _ridge(centred)
        weighted = torch.cat([fx @ m.root for fx, m in zip(cross, metrics, strict=True)], dim=1)
        factor = torch.linalg.cholesky(centred + ridge * torch.eye(len(centred)))
        maps = torch.cholesky_solve(weighted, factor)
        width = features.shape[1]
        self.tables, reduced = [], torch.zeros(len(centred), sum(lag_ranks), dtype=torch.float64)
        for lag, rank in enumerate(lag_ranks):
            own = slice(lag * width, (lag + 1) * width)
            basis = _leading(centred[own, own], maps[own], rank)
            codes, step = _to_int8((features - mean[own].numpy()) @ basis.numpy())
            first = sum(lag_ranks[:lag])
            reduced[own, first : first + rank] = basis / torch.from_numpy(step)
            self.tables.append(codes)
        self.covariance = reduced.T @ centred @ reduced
        self.cross = [reduced.T @ fx for fx in cross]


def _leading(covariance: torch.Tensor, maps: torch.Tensor, rank: int) -> torch.Tensor:
    """The `rank` combinations of features whose maps explain most: float64 (features, rank)."""
    values, vectors = torch.linalg.eigh(covariance)
    root = values.clamp_min(float(values.max()) * 1e-9).sqrt()
    explained = root[:, None] * (vectors.T @ maps)
    _, left = torch.linalg.eigh(explained @ explained.T)
    basis: torch.Tensor = vectors @ (left.flip(1)[:, :rank] / root[:, None])
    return basis


def _to_int8(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Integers and the step of each column; what lies far out is clipped."""
    spread = np.sqrt((table**2).mean(axis=0))
    largest = np.minimum(np.abs(table).max(axis=0, initial=0.0), _CLIP * spread)
    step = np.maximum(largest, 1e-12) / 127
    return np.clip(np.rint(table / step), -127, 127).astype(np.int8), step


def _group(
    moments: Moments,
    index: int,
    planes: tuple[int, ...],
    metric: _Metric,
    text: _TextModel,
    unit: float,
    most: int,
) -> LayerGroup:
    mean = moments.x[index] / moments.num_tokens
    covariance = moments.xx[index] / moments.num_tokens - torch.outer(mean, mean)
    cross = text.cross[index]
    prediction = _solve(text.covariance, cross)
    left = covariance - prediction.T @ cross - cross.T @ prediction
    left += prediction.T @ text.covariance @ prediction
    values, vectors = torch.linalg.eigh(metric.root.T @ left @ metric.root)
    values, vectors = values.flip(0), vectors.flip(1)
    analysis = metric.root @ vectors[:, :most]
    if most < len(mean):
        analysis = torch.cat([analysis, metric.root @ _guards(vectors[:, most:])], dim=1)
    return LayerGroup(
        planes=planes,
        means=mean.to(torch.float32).numpy(),
        prediction=_float16(prediction),
        synthesis=_with_bytes(_float16(unit * vectors[:, :most].T @ metric.inverse_root), most),
        analysis=_with_bytes(_float16(analysis / unit).T, most).T,
        variances=(values[:most].clamp_min(0) / unit**2).to(torch.float32).numpy(),
    )


def _with_bytes(rows: np.ndarray, most: int) -> np.ndarray:
    """Rows behind the precise ones rounded to 8 bits, up to so many."""
    rows[PRECISE:most] = rounded(rows[PRECISE:most])
    return rows


def _solve(covariance: torch.Tensor, cross: torch.Tensor) -> torch.Tensor:
    ridge = _ridge(covariance) * torch.eye(len(covariance))
    solution: torch.Tensor = torch.linalg.solve(covariance + ridge, cross)
    return solution


def _ridge(covariance: torch.Tensor) -> float:
    """What to add to the diagonal so that solving is stable."""
    if not len(covariance):
        return 0.0
    return max(FEATURE_RIDGE * float(covariance.diagonal().mean()), 1e-12)


def _guards(tail: torch.Tensor) -> torch.Tensor:
    """Random mixtures of what is left out, whose squares add up to its energy on average."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(tail.shape[1], GUARD_COLUMNS, generator=generator, dtype=torch.float64)
    guards: torch.Tensor = tail @ mix / GUARD_COLUMNS**0.5
    return guards


def _float16(matrix: torch.Tensor) -> np.ndarray:
    return matrix.clamp(-65504, 65504).to(torch.float16).contiguous().numpy()
