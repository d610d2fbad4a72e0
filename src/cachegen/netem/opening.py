"""`open_link`: a link between namespaces where permitted, else through a forwarder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from cachegen.errors import CacheGenError
from cachegen.netem.link import Kind, Link
from cachegen.netem.namespaces import namespace_link
from cachegen.netem.proxy import proxy_link


@contextmanager
def open_link(mbit_s: float | None, *, kind: Kind | None = None) -> Iterator[Link]:
    """Open a link of a rate in both directions; the block's end removes it and its servers.

    Args:
        mbit_s: the rate on the wire, headers of packets included, so that about 0.96 of it is
            left for bytes of objects; None for no limit.
        kind: "netns" or "proxy"; by default the first where it is permitted.

    Raises:
        ValueError: not a rate.
        CacheGenError: the kind that was asked for is not permitted here.
    """
    with ExitStack() as stack:
        yield _enter(stack, mbit_s, kind)


def _enter(stack: ExitStack, mbit_s: float | None, kind: Kind | None) -> Link:
    if kind == "proxy":
        return stack.enter_context(proxy_link(mbit_s, reason="a proxy was asked for"))
    try:
        return stack.enter_context(namespace_link(mbit_s))
    except CacheGenError as error:
        if kind == "netns":
            raise
        return stack.enter_context(proxy_link(mbit_s, reason=f"no namespaces: {error}"))
