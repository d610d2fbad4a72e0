"""An adaptive load during which the link's rate falls."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from cachegen.loading.result import LoadResult
from cachegen.netem import Link, rate_schedule

# Longer than any load.
_FOREVER_S = 3600.0


def load_while_falling(
    load: Callable[..., LoadResult],
    link: Link,
    *,
    mbit_s: float,
    low_mbit_s: float,
    slo_s: float | None,
    share: float = 0.5,
    low_s: float = _FOREVER_S,
) -> tuple[LoadResult, list[tuple[float, float]]]:
    """Load while the rate falls; the result, and the rates with the seconds at which each began.

    Args:
        load: takes ``slo_s`` and ``progress`` as `cachegen.load` does.
        link: left as it is in the end.
        mbit_s: the rate at first.
        low_mbit_s: the rate as soon as a share of the tokens is there.
        slo_s: deadline of the load.
        share: of all tokens. Arbitrary: 0.2 to 0.8 do, the middle of the load.
        low_s: for how long; then the first rate is back.
    """
    falls, rates = threading.Event(), [(0.0, mbit_s)]

    def change(rate: float) -> float:
        at_s = time.perf_counter() - began_s
        rates.append((at_s, rate))
        return at_s

    def steps() -> Iterator[tuple[float, float]]:
        """The schedule counts from its beginning, so waiting is part of a step."""
        yield 0.0, mbit_s
        falls.wait()
        yield change(low_mbit_s) + low_s, low_mbit_s
        change(mbit_s)
        yield 0.0, mbit_s

    def watch(done: int, total: int) -> None:
        if done >= share * total:
            falls.set()

    began_s = time.perf_counter()
    with rate_schedule(link, steps()):
        began_s = time.perf_counter()
        try:
            result = load(slo_s=slo_s, progress=watch)
        finally:
            falls.set()
    return result, [(at_s, rate) for at_s, rate in rates if at_s < result.ttft_s]
