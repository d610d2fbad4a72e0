"""The protocol of links."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Any, Literal, Protocol

Kind = Literal["netns", "proxy"]
# A packet of 1,514 bytes then takes 0.12 s, less than the least timeout of TCP, 0.2 s.
MIN_MBIT_S = 0.1


class Link(Protocol):
    """A link between this process, the client, and the servers that it spawns.

    Attributes:
        kind: two network namespaces, or a forwarder on loopback.
        reason: why the link is of this kind.
        host: the address that servers bind to.
    """

    kind: Kind
    reason: str
    host: str

    def spawn(self, args: Sequence[str], **popen: Any) -> subprocess.Popen[Any]:
        """Start a program on the far side; it ends with the link at the latest.

        Args:
            args: the program and its arguments.
            popen: options of `subprocess.Popen`.
        """
        ...

    def address(self, port: int) -> str:
        """HOST:PORT by which clients reach a port that a server listens at."""
        ...

    def set_rate(self, mbit_s: float | None) -> None:
        """Change the rate of both directions, at least 0.1 Mbit/s; None lifts the limit."""
        ...


def clamped_bits_per_s(mbit_s: float) -> float:
    """The rate to use, at least 0.1 Mbit/s: an outage becomes a trickle, so that TCP recovers.

    Raises:
        ValueError: not a rate.
    """
    if not 0 <= mbit_s < float("inf"):
        raise ValueError(f"expected a rate of at least 0 Mbit/s, got {mbit_s}")
    return max(mbit_s, MIN_MBIT_S) * 1e6
