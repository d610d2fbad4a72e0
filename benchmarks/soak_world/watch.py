"""What the server's process takes, every few seconds, and whether it grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

# Arbitrary: a fifth to two thirds does. Pools of threads and connections fill meanwhile.
_WARM_UP = 1 / 2
# What may be added within a run, whatever its length: the longer it is, the less that is an hour.
# Of resident memory five times what ten minutes gave (1.6 MB), and a twentieth of what a server did
# that kept the buffers of closed connections.
MAX_GROWTH = {"rss_mb": 8.0, "files": 64.0, "threads": 16.0}
# Of shorter watches only the most is judged: they see nothing but the warm-up. Arbitrary: 60 to
# 300 s do.
_JUDGED_S = 120.0
# What a server of these clients may take at any time. Memory: twice what ten minutes gave (110 MB):
# the process 55, connections by TLS, of which 64 clients keep 250, 0.1 to 0.5 each; the rest are
# bodies on their way, of which more are under way at once on a faster machine. Files: a connection
# or several of each client, and an object. Threads: 40 a tenant.
MOST = {"rss_mb": 220.0, "files": 500.0, "threads": 200.0}


@dataclass(frozen=True, slots=True)
class Sample:
    """What a process takes at a moment.

    Attributes:
        at_s: when, in seconds since the process began to be watched.
        rss_mb: resident memory.
        files: open files.
        threads: threads.
    """

    at_s: float
    rss_mb: float
    files: int
    threads: int


def sample(process_id: int, at_s: float) -> Sample:
    """Look at a process.

    Raises:
        OSError: it has ended.
    """
    base = Path(f"/proc/{process_id}")
    fields = dict(
        line.split(":\t", 1) for line in (base / "status").read_text().splitlines() if ":\t" in line
    )
    return Sample(
        at_s,
        int(fields["VmRSS"].split()[0]) * 1024 / 1e6,
        len(list((base / "fd").iterdir())),
        int(fields["Threads"]),
    )


def flaws(trends: Mapping[str, Mapping[str, float]]) -> list[str]:
    """What grew, or was too much."""
    grown = [
        f"{name} grew: {found}"
        for name, found in trends.items()
        if found["watched_s"] >= _JUDGED_S and found["grown"] > MAX_GROWTH[name]
    ]
    return grown + [
        f"{name}: expected at most {MOST[name]}, got {found}"
        for name, found in trends.items()
        if found["most"] > MOST[name]
    ]


def trend(samples: Sequence[Sample], name: str) -> dict[str, float]:
    """The line through a measure after the warm-up: its rise an hour, and over the run.

    Fewer than three samples tell no rise, only the most.
    """
    first_s = _WARM_UP * (samples[-1].at_s - samples[0].at_s) + samples[0].at_s if samples else 0.0
    kept = [asdict(one) for one in samples if one.at_s >= first_s]
    most = max((float(asdict(one)[name]) for one in samples), default=0.0)
    if len(kept) < 3:
        unknown = dict.fromkeys(("an_hour", "grown", "watched_s"), 0.0)
        return {**unknown, "last": float(kept[-1][name]) if kept else 0.0, "most": most}
    times_s = np.array([one["at_s"] for one in kept])
    values = np.array([one[name] for one in kept])
    slope = float(np.polyfit(times_s - times_s[0], values, 1)[0])
    return {
        "an_hour": round(3600 * slope, 1),
        "grown": round(slope * float(times_s[-1] - times_s[0]), 2),
        "watched_s": round(float(times_s[-1] - times_s[0]), 1),
        "last": float(values[-1]),
        "most": most,
    }
