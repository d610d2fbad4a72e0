"""Rates that change on a schedule while a link is used."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from cachegen.netem.link import Link


@contextmanager
def rate_schedule(link: Link, steps: Iterable[tuple[float, float | None]]) -> Iterator[None]:
    """Set the rates of steps (seconds, Mbit/s) one after another during the block; the last stays.

    The block begins with the first rate. An error of the link ends the schedule and is raised
    after the block.
    """
    begun, ended = threading.Event(), threading.Event()
    errors: list[Exception] = []

    def play() -> None:
        change_s = time.monotonic()
        try:
            for seconds, mbit_s in steps:
                link.set_rate(mbit_s)
                begun.set()
                change_s += seconds
                if ended.wait(max(change_s - time.monotonic(), 0)):
                    return
        except Exception as error:
            errors.append(error)
        finally:
            begun.set()

    player = threading.Thread(target=play, name="cachegen-link")
    player.start()
    begun.wait()
    try:
        yield
    finally:
        ended.set()
        player.join()
    if errors:
        raise errors[0]
