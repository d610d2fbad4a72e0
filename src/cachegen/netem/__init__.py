"""Links of a chosen rate between this process and servers that it starts.

For tests and benchmarks: bytes really take their time, in both directions, and the rate can
change while they are under way. This package knows nothing of caches and stores.
"""

from cachegen.netem.link import Link
from cachegen.netem.opening import open_link
from cachegen.netem.rates import rate_schedule

__all__ = ["Link", "open_link", "rate_schedule"]
