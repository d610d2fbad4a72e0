"""From outcomes of cases to rows: means over a dataset, each with its interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from cachegen.evaluation.case import Case
from cachegen.evaluation.coder import Coder
from cachegen.evaluation.intervals import Interval, mean_interval, ratio_interval
from cachegen.evaluation.judge import Outcome
from cachegen.evaluation.outcomes import Key
from cachegen.evaluation.results import Row
from cachegen.evaluation.run import key_of


def rows_of(
    found: Mapping[Key, Outcome],
    coders: Sequence[Coder],
    cases: Mapping[str, Sequence[Case]],
    *,
    seed: int,
) -> list[Row]:
    """A row for every coder and dataset that has outcomes.

    Args:
        found: what was measured.
        coders: in the order of the rows.
        cases: by dataset.
        seed: of the intervals.
    """
    rows = []
    for coder in coders:
        for dataset, own in cases.items():
            keys = [(key_of(coder, case), case) for case in own]
            pairs = [(found[key], case) for key, case in keys if key in found]
            if pairs:
                rows.append(_row(coder, dataset, pairs, seed=seed))
    return rows


def _row(coder: Coder, dataset: str, pairs: Sequence[tuple[Outcome, Case]], *, seed: int) -> Row:
    outcomes = [outcome for outcome, _ in pairs]
    bits = [8 * one.num_bytes for one in outcomes]
    values = [one.num_values for one in outcomes]
    kls = [one.kl for one in outcomes]
    lost = [one.lost for one in outcomes if one.lost is not None]
    scores = [one.score for one in outcomes if one.score is not None]
    before = [one.score_uncompressed for one in outcomes if one.score_uncompressed is not None]
    read = [one.num_tokens for one in outcomes]
    return Row(
        method=coder.method,
        level=coder.level,
        dataset=dataset,
        tokens=_mean([len(case.context) for _, case in pairs]),
        bits_per_value=sum(bits) / sum(values),
        bits_per_value_interval=_pair(ratio_interval(bits, values, seed=seed)),
        kl=_mean(kls),
        kl_interval=_pair(mean_interval(kls, seed=seed)),
        rel_ppl=math.expm1(sum(lost) / sum(read)) if lost else None,
        rel_ppl_interval=_pair(ratio_interval(lost, read, seed=seed), math.expm1) if lost else None,
        top1=_mean([one.top1 for one in outcomes]),
        score=_mean(scores) if scores else None,
        score_interval=_pair(mean_interval(scores, seed=seed)) if scores else None,
        score_uncompressed=_mean(before) if before else None,
        n=len(pairs),
    )


def _pair(
    interval: Interval | None, change: Callable[[float], float] = float
) -> tuple[float, float] | None:
    return None if interval is None else (change(interval.low), change(interval.high))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
