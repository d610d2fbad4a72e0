"""Nothing of a link between namespaces is left, whichever way its process ends."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from cachegen.netem import namespaces, open_link
from cachegen.netem.commands import execute

pytestmark = pytest.mark.usefixtures("require_netns")

OPEN_AND_WAIT = """
import subprocess, sys, time
from cachegen.netem import open_link
with open_link(5.0, kind="netns") as link:
    server = link.spawn(["sleep", "60"])
    print(link.namespace, link.device, server.pid, flush=True)
    sys.stdin.readline()
    raise ValueError("on purpose")
"""


def is_left(namespace: str, device: str) -> bool:
    names = execute("ip", "netns", "list").split()
    return namespace in names or f" {device}@" in execute("ip", "link", "show")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def await_removal(namespace: str, device: str, pid: int) -> None:
    deadline_s = time.monotonic() + 20
    while is_left(namespace, device) or is_alive(pid):
        assert time.monotonic() < deadline_s, "something is left"
        time.sleep(0.02)


def test_both_ends_are_shaped_and_then_gone():
    with open_link(5.0, kind="netns") as link:
        near = execute("tc", "qdisc", "show", "dev", link.device)
        far = execute("tc", "-n", link.namespace, "qdisc", "show", "dev", "far0")
        assert "rate 5Mbit burst 3100b" in near
        assert "rate 5Mbit burst 3100b" in far
        assert "inet6" not in execute("ip", "addr", "show", "dev", link.device)
        assert is_left(link.namespace, link.device)
    assert not is_left(link.namespace, link.device)


@pytest.mark.parametrize(
    ("before", "after", "is_kept"),
    [(200.0, 5.0, True), (5.0, 1000.0, True), (1000.0, 201.0, True), (1000.0, 200.0, False)],
)
def test_only_packets_that_fit_the_new_bucket_are_kept(before, after, is_kept):
    """The kernel would hold larger ones for ever, and all that is behind them."""
    with open_link(before, kind="netns") as link:
        handle = execute("tc", "qdisc", "show", "dev", link.device).split()[2]
        link.set_rate(after)
        now = execute("tc", "qdisc", "show", "dev", link.device)
        assert f"rate {after:.0f}Mbit" in now.replace("1Gbit", "1000Mbit")
        assert (now.split()[2] == handle) == is_kept


def test_an_exception_removes_it():
    with pytest.raises(KeyError), open_link(5.0, kind="netns") as link:
        raise KeyError
    assert not is_left(link.namespace, link.device)


def test_a_rate_that_is_none_leaves_nothing():
    before = execute("ip", "netns", "list")
    with pytest.raises(ValueError, match="expected a rate"), open_link(-1, kind="netns"):
        pass
    assert execute("ip", "netns", "list") == before


def test_links_live_side_by_side():
    with open_link(5.0, kind="netns") as one, open_link(5.0, kind="netns") as other:
        assert one.host != other.host
        assert one.host.startswith(("198.18.", "198.19."))
        assert is_left(one.namespace, one.device)
    assert not is_left(other.namespace, other.device)


def test_a_signal_removes_it():
    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", OPEN_AND_WAIT]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    with start() as terminated, start() as killed:
        links = [process.stdout.readline().split() for process in (terminated, killed)]
        assert all(is_left(namespace, device) for namespace, device, _ in links)
        terminated.terminate()
        killed.kill()
    for namespace, device, pid in links:
        await_removal(namespace, device, int(pid))


def test_what_a_killed_warden_left_is_removed_by_the_next_link():
    with subprocess.Popen(["true"]) as process:
        dead = process.pid
    process.wait()
    stale = f"cachegen-{dead}-0"
    execute("ip", "netns", "add", stale)
    with open_link(5.0, kind="netns"):
        assert stale not in execute("ip", "netns", "list").split()


@pytest.mark.parametrize(
    ("subnet", "far"), [(0, "198.18.0.2"), (64, "198.18.1.2"), (32767, "198.19.255.254")]
)
def test_addresses(subnet, far):
    assert namespaces._addresses(subnet)[1] == far
