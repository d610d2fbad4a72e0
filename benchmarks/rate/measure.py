"""Bytes and quality of coders on domains, and the gate that every coder has to pass before."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from cachegen.codec.calibration.sample import RoundTrip
from cachegen.codec.levels import Quality
from cachegen.engines.transformers.arithmetic import Prefiller
from cachegen.engines.transformers.quality import evaluator
from cachegen.engines.transformers.text_windows import Window
from cachegen.evaluation import gate
from cachegen.evaluation.coder import Coder, Tokens
from cachegen.kvcache import KVCache

Evaluators = Mapping[str, Callable[[RoundTrip], Mapping[str, Quality]]]


@dataclass(frozen=True, slots=True)
class Row:
    """A coder on a domain.

    Attributes:
        bits_per_value: all stored bytes over all values of the caches, sinks among them.
        answer_kl: KL over the tokens of answers; None where the domain asks nothing.
    """

    method: str
    level: str
    domain: str
    bits_per_value: float
    kl: float
    answer_kl: float | None
    rel_ppl: float
    top1: float
    num_tokens: int


def evaluators(
    model: Any, windows: Mapping[str, Sequence[Window]], *, prefill: Prefiller | None = None
) -> Evaluators:
    """One for each domain, so that its bytes can be told apart; the contexts are prefilled here.

    ``prefill``: computes their caches; by default the model does.
    """
    return {
        name: evaluator(model, {name: found}, prefill=prefill) for name, found in windows.items()
    }


def measure_all(coders: Sequence[Coder], judges: Evaluators) -> Iterator[list[Row]]:
    """As `measure`, one coder after the other, as many at once as there are cores."""
    threads = torch.get_num_threads()
    cores = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(partial(measure, judges=judges), coders)
    torch.set_num_threads(threads)


def measure(coder: Coder, judges: Evaluators) -> list[Row]:
    """A row for each domain."""
    return [_row(coder, domain, judge) for domain, judge in judges.items()]


def _row(coder: Coder, domain: str, judge: Callable[[RoundTrip], Mapping[str, Quality]]) -> Row:
    num_bytes = num_values = 0

    def roundtrip(kv: KVCache, tokens: Tokens) -> KVCache:
        nonlocal num_bytes, num_values
        data = coder.encode(kv, tokens)
        num_bytes += len(data)
        num_values += kv.num_values
        return coder.decode(data, tokens)

    quality = judge(roundtrip)[domain]
    return Row(
        method=coder.method,
        level=coder.level,
        domain=domain,
        bits_per_value=8 * num_bytes / num_values,
        kl=quality.kl,
        answer_kl=quality.answer_kl,
        rel_ppl=quality.rel_ppl,
        top1=quality.top1,
        num_tokens=quality.num_tokens,
    )


def check(coder: Coder, kv: KVCache, tokens: Tokens) -> None:
    """Exit unless the coder passes the gate."""
    try:
        gate.check(coder, kv, tokens)
    except gate.GateError as exc:
        sys.exit(f"{exc}; nothing was measured")


def lost_and_gained(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """Interval of 95% for the change of the share of right answers, paired; exact.

    The shares of answers lost and gained each get exact (Clopper-Pearson) bounds of 97.5%, so
    that both hold with 95%; the change is the one less the other.
    """
    lost = exact_bounds(int((before & ~after).sum()), len(before))
    gained = exact_bounds(int((~before & after).sum()), len(before))
    return gained[0] - lost[1], gained[1] - lost[0]


def exact_bounds(hits: int, trials: int, *, doubt: float = 0.0125) -> tuple[float, float]:
    """Clopper-Pearson bounds of a share, with so much doubt on either side."""
    low = _bisect(lambda p: 1 - _at_most(hits - 1, trials, p) < doubt) if hits else 0.0
    high = _bisect(lambda p: _at_most(hits, trials, p) > doubt) if hits < trials else 1.0
    return low, high


def _bisect(below: Callable[[float], bool]) -> float:
    """Where a condition that holds for small shares ends."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return (low + high) / 2


def _at_most(hits: int, trials: int, share: float) -> float:
    """Probability of at most so many hits, every trial with this share."""
    k = np.arange(trials + 1)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, trials + 1)))])
    ways = factorials[trials] - factorials[k] - factorials[trials - k]
    logs = ways + k * np.log(share) + (trials - k) * np.log1p(-share)
    return float(np.exp(logs[: hits + 1]).sum())
