"""A link through a forwarder on loopback, for where network namespaces are not permitted."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from cachegen.netem.forwarder import Forwarder
from cachegen.netem.link import Kind
from cachegen.netem.processes import Processes
from cachegen.netem.relay import LOOPBACK


@dataclass(slots=True, eq=False)
class ProxyLink:
    """A link to servers on loopback; connections through `address` are slowed down."""

    forwarder: Forwarder
    reason: str
    host: str = LOOPBACK
    kind: Kind = "proxy"
    processes: Processes = field(default_factory=Processes)

    def spawn(self, args: Sequence[str], **popen: Any) -> subprocess.Popen[Any]:
        """See `Link`."""
        return self.processes.spawn(args, **popen)

    def address(self, port: int) -> str:
        """See `Link`."""
        return f"{LOOPBACK}:{self.forwarder.port_to(port)}"

    def set_rate(self, mbit_s: float | None) -> None:
        """See `Link`."""
        self.forwarder.set_rate(mbit_s)


@contextmanager
def proxy_link(mbit_s: float | None, *, reason: str) -> Iterator[ProxyLink]:
    """Set up a link, and end it and its servers after the block."""
    with closing(Forwarder()) as forwarder:
        link = ProxyLink(forwarder, reason)
        try:
            link.set_rate(mbit_s)
            yield link
        finally:
            link.processes.end()
