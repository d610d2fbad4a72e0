"""Resident memory of this process, now and at its peak."""

from __future__ import annotations

import sys
from pathlib import Path


def peak_bytes() -> int | None:
    """The most that was resident since the process began; None where the system does not tell."""
    try:
        import resource
    except ModuleNotFoundError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def resident_bytes() -> int | None:
    """What is resident now; None where the system does not tell."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        import resource
    except (OSError, ModuleNotFoundError):
        return peak_bytes()
    return int(pages) * resource.getpagesize()


def gigabytes(num_bytes: float) -> str:
    """For people, to two digits: `0.52 GB`, `8.8 GB`, `31 GB`."""
    size = num_bytes / 1e9
    return f"{size:.0f} GB" if size >= 9.95 else f"{size:.2g} GB"
