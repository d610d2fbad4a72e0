"""Shaping of a network device by the token bucket filter of `tc`."""

from __future__ import annotations

from cachegen.netem.commands import execute
from cachegen.netem.link import clamped_bits_per_s

# Above, two packets last less than 0.12 ms, and timers that are late would cost rate.
_SLOW_BITS_PER_S = 200e6
# Two packets of 1,514 bytes, and some.
_SLOW_BURST_BYTES = 3100
_FAST_BURST_S = 0.002
# More than the largest packet before segmentation, 64 KiB and headers.
_FAST_BURST_BYTES = 70_000
# 16 connections of 64 KiB each in queues (`namespaces`).
_QUEUE_BYTES = 1 << 20


def bucket(mbit_s: float) -> tuple[str, ...]:
    """Arguments of `tc` for a rate in Mbit/s.

    A burst is short beside any object that is worth timing: two packets up to 200 Mbit/s, above
    that 2 ms, but more than the largest packet before segmentation. The queue holds what several
    connections send at most, so that packets are late, as they should be, but not lost: a loss at
    the end of an object costs TCP 200 ms.
    """
    bits_per_s = clamped_bits_per_s(mbit_s)
    rate, burst = f"{int(bits_per_s)}bit", str(_burst_bytes(bits_per_s))
    return "tbf", "rate", rate, "burst", burst, "limit", str(_QUEUE_BYTES)


def shape(
    device: str, mbit_s: float | None, *, was: float | None, namespace: str | None = None
) -> None:
    """Change the rate in Mbit/s at which a device sends from `was`; None means no limit.

    Raises:
        CacheGenError: the kernel refuses.
    """
    tc = ("tc",) if namespace is None else ("tc", "-n", namespace)
    if was is not None and not _keeps_queue(was, mbit_s):
        execute(*tc, "qdisc", "del", "dev", device, "root")
    if mbit_s is not None:
        execute(*tc, "qdisc", "replace", "dev", device, "root", *bucket(mbit_s))


def _keeps_queue(was: float, mbit_s: float | None) -> bool:
    """Whether queued packets fit into the new bucket.

    The kernel would keep one that does not for ever, and everything behind it.
    """
    if mbit_s is None:
        return False
    before, after = (_burst_bytes(clamped_bits_per_s(rate)) for rate in (was, mbit_s))
    return after >= min(before, _FAST_BURST_BYTES)


def _burst_bytes(bits_per_s: float) -> int:
    if bits_per_s <= _SLOW_BITS_PER_S:
        return _SLOW_BURST_BYTES
    return max(int(bits_per_s / 8 * _FAST_BURST_S), _FAST_BURST_BYTES)
