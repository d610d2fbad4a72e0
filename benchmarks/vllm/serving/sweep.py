"""One model, with and without the connector, over links of every rate."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cachegen.cli.demo.link import serving
from cachegen.netem import Link, open_link
from serving.client import Client, Timed
from serving.engines import Engine, started, through_cachegen
from serving.prompts import Model, Prompts, prompts_of

CONTEXT_TOKENS = 4096
# Falling, so that every first load meets a link slower than the one that was learned.
RATES = (1000, 500, 200, 100, 50, 20)
# What of 16 next tokens must be the same on top of loaded KV. At the default level one may differ,
# where two tokens are almost as likely; on top of wrong KV most do.
FORCED_TOKENS, LEAST_EQUAL = 16, 14
# So many requests may find, without a limit of the link, that computing is sooner.
GATE_LOADS = 8
# Counters that say why something was not loaded.
_WHY = ("misses:", "load_failures:")


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    Attributes:
        warm: loads at each rate, besides the first.
        cold: prefills, and local hits, at each rate: they are pooled over all rates.
        pairs: of blocks of prompts that hit nothing, without and with the connector.
        block: prompts of such a block, one after the other.
        miss_tokens: of such a prompt.
    """

    warm: int
    cold: int
    pairs: int
    block: int = 2
    miss_tokens: int = 2048


QUICK = Effort(warm=3, cold=1, pairs=3)
FULL = Effort(warm=9, cold=3, pairs=10)


@dataclass(frozen=True, slots=True)
class Sample:
    """Requests of one method at one rate.

    Attributes:
        times: of each.
        loaded_bytes, loaded_tokens: of all of them together, as the connector counts.
    """

    times: list[Timed]
    loaded_bytes: float = 0.0
    loaded_tokens: float = 0.0


@dataclass(slots=True)
class Found:
    """All that was measured of a model.

    Attributes:
        prompt_tokens: of prompts with a context.
        cold, local: requests to vLLM alone.
        first, warm: loads by rate: after the rate changed, and the others.
        misses: seconds of each block without and with the connector.
        lookups_us: the scheduler's questions.
        link: its kind.
    """

    prompt_tokens: int = 0
    cold: list[Timed] = field(default_factory=list)
    local: list[Timed] = field(default_factory=list)
    first: dict[int, Sample] = field(default_factory=dict)
    warm: dict[int, Sample] = field(default_factory=dict)
    misses: list[tuple[list[Timed], list[Timed]]] = field(default_factory=list)
    lookups_us: list[float] = field(default_factory=list)
    link: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """What runs: vLLM without and with the connector, its store behind a link."""

    prompts: Prompts
    link: Link
    alone: Client
    connected: Client
    lookups: Path

    def warm(self, number: int) -> Sample:
        """Ask with the context stored, and nothing in vLLM's own cache."""
        before = self.connected.counts()
        self.connected.forget()
        time = self.connected.time(self.prompts.asked(number))
        after = self.connected.counts()
        new = {name: value - before.get(name, 0) for name, value in after.items()}
        told = [f"{n} {v:.0f}" for n, v in new.items() if v and n.startswith(_WHY)]
        if told:
            say(f"request {number}: {time.ttft_s:.2f} s, {', '.join(told)}")
        return Sample([time], new.get("bytes_loaded", 0.0), new.get("tokens_loaded", 0.0))


@contextmanager
def opened(model: Model, folder: Path, *, options: tuple[str, ...] = ()) -> Iterator[Bench]:
    """Start everything for one model, with further options of vLLM's server."""
    with open_link(None) as link, serving(link, folder / "store") as url:
        say(f"{model.name}: link by {link.kind} ({link.reason})")
        extra: dict[str, Any] = {"store": url}
        if model.profile is not None:
            extra["profile"] = str(model.profile)
        engines = (
            Engine(model.folder, folder / "alone", options=options),
            Engine(model.folder, folder / "connected", through_cachegen(extra), options),
        )
        with started(*engines) as (alone, connected):
            prompts = prompts_of(model, CONTEXT_TOKENS)
            yield Bench(prompts, link, alone, connected, engines[1].lookups)


def measure(model: Model, effort: Effort, folder: Path) -> Found:
    """Everything, behind the gate."""
    with opened(model, folder) as bench:
        say(f"{model.name}: both servers are ready")
        warm_up(bench)
        bench.connected.time(bench.prompts.asked(0))
        bench.connected.await_saved(CONTEXT_TOKENS)
        say(f"{model.name}: the context is stored")
        gate(bench)
        found = Found(prompt_tokens=len(bench.prompts.asked(0)), link=bench.link.kind)
        for rate in RATES:
            at_rate(bench, rate, effort, found)
            say(f"{model.name}: measured at {rate} Mbit/s")
        bench.link.set_rate(100)
        for pair in range(effort.pairs):
            found.misses.append(miss(bench, pair, effort))
        say(f"{model.name}: measured what hits nothing")
        found.lookups_us = [int(line) / 1e3 for line in bench.lookups.read_text().split()]
    return found


def warm_up(bench: Bench) -> None:
    """The first prefills of a process are slow; and the connector learns what they cost."""
    for number in (1001, 1002):
        for client in (bench.alone, bench.connected):
            client.time(bench.prompts.unseen(number, 1024))
    bench.connected.await_saved(2 * 1024)
    bench.connected.forget()


def gate(bench: Bench) -> None:
    """What is loaded is right: next tokens, one by one, are those of vLLM alone.

    Raises:
        RuntimeError: nothing was loaded, or other tokens follow.
    """
    loads = (bench.warm(number).loaded_tokens for number in range(GATE_LOADS))
    loaded = next((tokens for tokens in loads if tokens), 0)
    if not loaded:
        raise RuntimeError(f"none of {GATE_LOADS} requests loaded anything")
    equal = 0
    for number in range(1, FORCED_TOKENS + 1):
        tokens = bench.prompts.continued(number)
        # On top of the loaded blocks, which vLLM keeps in its own cache.
        equal += bench.connected.next_token(tokens) == bench.alone.next_token(tokens)
    say(f"gate: {loaded:.0f} tokens loaded, {equal} of {FORCED_TOKENS} next tokens are the same")
    if equal < LEAST_EQUAL:
        raise RuntimeError(f"{equal} of {FORCED_TOKENS} next tokens are those of vLLM alone")


def at_rate(bench: Bench, rate: int, effort: Effort, found: Found) -> None:
    """Loads over one link, with prefills and local hits between them."""
    bench.link.set_rate(rate)
    found.first[rate] = bench.warm(0)
    parts = []
    for number in range(max(effort.warm, effort.cold)):
        if number < effort.cold:
            bench.alone.forget()
            found.cold.append(bench.alone.time(bench.prompts.asked(number)))
            found.local.append(bench.alone.time(bench.prompts.asked(number + 1)))
        if number < effort.warm:
            parts.append(bench.warm(number + 1))
    found.warm[rate] = Sample(
        [time for part in parts for time in part.times],
        sum(part.loaded_bytes for part in parts),
        sum(part.loaded_tokens for part in parts),
    )


def miss(bench: Bench, pair: int, effort: Effort) -> tuple[list[Timed], list[Timed]]:
    """A block of new prompts without and one with the connector, in changing order.

    What the connector saves in the background within its block counts; what is left is waited for.
    """
    times: dict[int, list[Timed]] = {}
    clients = (bench.alone, bench.connected)
    for turn in (0, 1) if pair % 2 else (1, 0):
        before = bench.connected.saved()
        numbers = range(2 * pair * effort.block, (2 * pair + 1) * effort.block)
        tokens = [
            bench.prompts.unseen(number + turn * effort.block, effort.miss_tokens)
            for number in numbers
        ]
        times[turn] = [clients[turn].time(prompt) for prompt in tokens]
        if turn:
            bench.connected.await_saved(before + sum(len(prompt) for prompt in tokens))
    return times[0], times[1]


def pairwise_overhead(misses: list[tuple[list[Timed], list[Timed]]]) -> float:
    """By how much a block takes longer with the connector, the median over pairs."""
    ratios = [
        sum(time.ttft_s for time in connected) / sum(time.ttft_s for time in alone)
        for alone, connected in misses
    ]
    return statistics.median(ratios) - 1


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)
