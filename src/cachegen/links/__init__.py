"""Links of a chosen rate between this process and servers that it starts.

For tests and benchmarks: bytes really take their time, in both directions, and the rate can
change while they are under way. Knows nothing of caches and stores.
"""

from cachegen.links.link import Link
from cachegen.links.opening import open_link
from cachegen.links.playing import playing

__all__ = ["Link", "open_link", "playing"]
