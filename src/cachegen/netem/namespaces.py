"""A link between two network namespaces: a pair of virtual devices, shaped by the kernel."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from cachegen.errors import CacheGenError
from cachegen.netem.commands import AlreadyThere, execute, program
from cachegen.netem.link import Kind
from cachegen.netem.processes import Processes
from cachegen.netem.shaping import shape

_PREFIX = "cachegen-"
# 198.18.0.0/15, the network for benchmarks, has 2^17 addresses; a subnet takes four.
_NUM_SUBNETS = 1 << 15
_FAR_DEVICE = "far0"
# Arbitrary: 8 to 256 do. Processes of neighbouring ids begin at different subnets.
_NUM_ATTEMPTS = 64
# Bytes of a connection in queues. By default there are megabytes, which delay the next connection
# when theirs is abandoned.
_LIMIT_BACKLOG = "echo 65536 > /proc/sys/net/ipv4/tcp_limit_output_bytes"
_numbers = count()

# A shell script in a process of its own. It waits for a line, or for the end of its input, which
# comes however this process ends; then it removes the namespace, its processes and the devices.
_WARDEN = f"""
read -r line
for pid in $("$1" netns pids "$2"); do kill -9 "$pid"; done
"$1" -n "$2" link del {_FAR_DEVICE}
"$1" netns del "$2"
"""


@dataclass(slots=True, eq=False)
class NamespaceLink:
    """A link whose near end is in this process's namespace, its far end in one of its own."""

    namespace: str
    device: str
    host: str
    reason: str = "network namespaces and tc are permitted"
    kind: Kind = "netns"
    mbit_s: float | None = None
    processes: Processes = field(default_factory=Processes)

    def spawn(self, args: Sequence[str], **popen: Any) -> subprocess.Popen[Any]:
        """See `Link`."""
        enter = (program("ip"), "netns", "exec", self.namespace)
        return self.processes.spawn([*enter, *args], **popen)

    def address(self, port: int) -> str:
        """See `Link`."""
        return f"{self.host}:{port}"

    def set_rate(self, mbit_s: float | None) -> None:
        """See `Link`."""
        shape(self.device, mbit_s, was=self.mbit_s)
        shape(_FAR_DEVICE, mbit_s, was=self.mbit_s, namespace=self.namespace)
        self.mbit_s = mbit_s


@contextmanager
def namespace_link(mbit_s: float | None) -> Iterator[NamespaceLink]:
    """Set up a link, and remove it however the block or this process ends.

    Raises:
        CacheGenError: it is not permitted here.
    """
    remove_stale()
    namespace = f"{_PREFIX}{os.getpid()}-{next(_numbers)}"
    with _warden(namespace):
        execute("ip", "netns", "add", namespace)
        device, subnet = _join(namespace)
        link = NamespaceLink(namespace, device, _configure(namespace, device, subnet))
        try:
            link.set_rate(mbit_s)
            yield link
        finally:
            link.processes.end()


def remove_stale() -> None:
    """Remove the links of processes that were killed together with their wardens."""
    for namespace in _namespaces():
        pid, _, _ = namespace.removeprefix(_PREFIX).partition("-")
        if pid.isdigit() and not Path("/proc", pid).exists():
            with _warden(namespace):
                pass


def _namespaces() -> list[str]:
    names = [line.split()[0] for line in execute("ip", "netns", "list").splitlines()]
    return [name for name in names if name.startswith(_PREFIX)]


def _join(namespace: str) -> tuple[str, int]:
    """A new pair of devices, and its subnet, which the near device's name reserves."""
    far = ("type", "veth", "peer", "name", _FAR_DEVICE, "netns", namespace)
    for attempt in range(_NUM_ATTEMPTS):
        subnet = (os.getpid() * _NUM_ATTEMPTS + attempt) % _NUM_SUBNETS
        device = f"cachegen{subnet}"
        with suppress(AlreadyThere):
            execute("ip", "link", "add", device, *far)
            return device, subnet
    raise CacheGenError(f"expected a free subnet, got {_NUM_ATTEMPTS} taken ones")


def _configure(namespace: str, device: str, subnet: int) -> str:
    """Give both ends of the pair addresses out of 198.18.0.0/15, and return the far one."""
    near, far = _addresses(subnet)
    execute("ip", "-batch", "-", lines=_up(device, near))
    lines = [*_up(_FAR_DEVICE, far), "link set lo up"]
    execute("ip", "-n", namespace, "-batch", "-", lines=lines)
    execute("ip", "netns", "exec", namespace, "sh", "-c", _LIMIT_BACKLOG)
    return far


def _up(device: str, address: str) -> list[str]:
    """Commands that give a device this address, and keep it from choosing another itself."""
    has_ipv6 = Path("/proc/sys/net/ipv6").exists()
    quiet = [f"link set {device} addrgenmode none"] if has_ipv6 else []
    return [f"addr add {address}/30 dev {device}", *quiet, f"link set {device} up"]


def _addresses(subnet: int) -> tuple[str, str]:
    first = 4 * subnet
    network = f"198.{18 + (first >> 16)}.{first >> 8 & 255}"
    return f"{network}.{(first & 255) + 1}", f"{network}.{(first & 255) + 2}"


@contextmanager
def _warden(namespace: str) -> Iterator[None]:
    command = ("sh", "-c", _WARDEN, "warden", program("ip"), namespace)
    warden = subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield
    finally:
        warden.communicate(b"end\n")
