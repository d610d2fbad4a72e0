"""One line a minute that says whether the connector pays."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from cachegen.engines.vllm.metrics.counters import Counts, add_up, labelled

_EVERY_S = 60.0


class Minutely:
    """Adds counts up and tells them once a minute, if there are any."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        """Start a minute."""
        self._tell, self._counts, self._since_s = tell, Counts(), time.monotonic()

    def add(self, counts: Mapping[str, float] | None) -> None:
        """Add counts; tell what came together if the minute is over."""
        if counts:
            self._counts = add_up(self._counts, dict(counts))
        now_s = time.monotonic()
        if now_s - self._since_s >= _EVERY_S:
            if self._counts:
                self._tell(line(self._counts, now_s - self._since_s))
            self._counts, self._since_s = Counts(), now_s


def line(counts: Counts, seconds: float) -> str:
    """The counts in words."""
    misses = labelled(counts, "misses")
    hits, num_misses = counts.get("hits", 0), sum(misses.values())
    why = ", ".join(f"{value:.0f} {reason}" for reason, value in sorted(misses.items()))
    load_s = counts.get("load_seconds", 0)
    saved_s = counts.get("prefill_seconds_saved", 0)
    failures = sum(labelled(counts, "load_failures").values())
    failures += sum(labelled(counts, "save_failures").values())
    shed = sum(labelled(counts, "saves_shed").values())
    words = [
        f"{seconds:.0f} s: {hits:.0f} of {hits + num_misses:.0f} requests loaded",
        f"{counts.get('tokens_loaded', 0):.0f} tokens in {load_s:.1f} s"
        + (f" that would have taken {saved_s:.1f} s to compute" if saved_s else ""),
        f"{counts.get('bytes_loaded', 0) / 1e6:.1f} MB",
        *([f"not loaded: {why}"] if why else []),
        f"saved {counts.get('tokens_saved', 0):.0f} tokens, "
        f"{counts.get('bytes_saved', 0) / 1e6:.1f} MB",
        *([f"{shed:.0f} saves shed"] if shed else []),
        *([f"{failures:.0f} failures"] if failures else []),
    ]
    return "; ".join(words)
