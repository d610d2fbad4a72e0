"""The token bucket of a network device."""

from __future__ import annotations

from cachegen.netem.commands import execute
from cachegen.netem.link import clamped_bits_per_s

_SLOW_BITS_PER_S = 200e6
_SLOW_BURST_BYTES = 3100
_FAST_BURST_S = 0.002
_FAST_BURST_BYTES = 70_000
_QUEUE_BYTES = 1 << 20


def bucket(mbit_s: float) -> tuple[str, ...]:
    """Arguments of `tc` for a rate.

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
    """Limit what a device sends to a rate, whose last rate is known; None lifts the limit.

    Raises:
        CacheGenError: the kernel refuses.
    """
    tc = ("tc",) if namespace is None else ("tc", "-n", namespace)
    if was is not None and not _keeps_queue(was, mbit_s):
        execute(*tc, "qdisc", "del", "dev", device, "root")
    if mbit_s is not None:
        execute(*tc, "qdisc", "replace", "dev", device, "root", *bucket(mbit_s))


def _keeps_queue(was: float, mbit_s: float | None) -> bool:
    """Whether what is queued fits into the new bucket: the kernel would keep for ever what does
    not, with all that is behind it."""
    if mbit_s is None:
        return False
    before, after = (_burst_bytes(clamped_bits_per_s(rate)) for rate in (was, mbit_s))
    return after >= min(before, _FAST_BURST_BYTES)


def _burst_bytes(bits_per_s: float) -> int:
    if bits_per_s <= _SLOW_BITS_PER_S:
        return _SLOW_BURST_BYTES
    return max(int(bits_per_s / 8 * _FAST_BURST_S), _FAST_BURST_BYTES)
