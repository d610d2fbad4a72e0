"""Benches side by side, each with a server of its own, which share the loads."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cachegen.netem.relay import LOOPBACK
from cachegen.store import Store, open_store
from faults.loads import Bench, Outcome, open_bench, open_both
from faults.servers import TOKEN, expired, serving, write_tokens
from faults.truth import Truth, prepare

BENCHES = 5


def run_all(folder: Path, faults: Sequence[str], *, seed: int) -> list[Outcome]:
    """Every load, on whichever bench is free."""
    todo: queue.SimpleQueue[tuple[int, str] | None] = queue.SimpleQueue()
    for item in (*enumerate(faults), *[None] * BENCHES):
        todo.put(item)
    outcomes: list[Outcome] = []

    def work(bench: Bench) -> None:
        while (item := todo.get()) is not None:
            outcomes.extend(bench.run(*item, seed=seed))

    with benches(folder) as ready:
        threads = [threading.Thread(target=work, args=(bench,)) for bench in ready]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return outcomes


@contextmanager
def benches(folder: Path) -> Iterator[list[Bench]]:
    """The benches, each with a server of its own, all with the same contexts."""
    original, tokens = folder / "original", write_tokens(folder / "tokens.json")
    truth = fill(original, tokens)
    with ExitStack() as stack:
        server = expired(original, folder, "--tenants", str(tokens))
        others: dict[str, Sequence[Store]] = {
            "expired_certificate": open_both(stack.enter_context(server).port, TOKEN, tls="s"),
            "dead": open_both(stack.enter_context(closed_port()), TOKEN),
        }
        yield [
            stack.enter_context(
                open_bench(truth, original, folder / str(n), tokens=tokens, others=others)
            )
            for n in range(BENCHES)
        ]


def fill(folder: Path, tokens: Path) -> Truth:
    """Save the contexts through a server, as its tenant."""
    with serving(folder, "--tenants", str(tokens)) as server:
        return prepare(open_store(f"cachegen://{TOKEN}@{LOOPBACK}:{server.port}"))


@contextmanager
def closed_port() -> Iterator[int]:
    """A port that is taken, but at which nobody listens."""
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        yield taken.getsockname()[1]
