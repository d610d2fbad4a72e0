"""A tenant's clients as one process with many threads, and the account it gives at the end."""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from soak_world.clients import Client, Home, live
from soak_world.contexts import make_contexts
from soak_world.mischief import DEEDS, GHOSTS
from soak_world.service import Tenant
from soak_world.tally import Tally

_TELLS_S = 2.0
# Above the time limits of a load and of a request, one after another.
_ENDS_S = 120.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What a crowd needs to know.

    Attributes:
        tenant: whose clients they are.
        others: the folders of other tenants.
        port: of the server.
        authority: the file of whom clients believe.
        clients: how many there are.
        pause_s: how long a client thinks, on average.
        seed: of all that is random.
    """

    tenant: Tenant
    others: list[str]
    port: int
    authority: str
    clients: int
    pause_s: float
    seed: int


@dataclass(slots=True, eq=False)
class Crowd:
    """The process of a crowd, seen from outside.

    Attributes:
        process: it.
        pipe: to it.
        counts: what it has told last.
        wrong: likewise.
        failures: likewise.
    """

    process: BaseProcess
    pipe: Connection
    counts: Counter[str]
    wrong: list[str]
    failures: dict[str, str]

    @classmethod
    def begin(cls, plan: Plan) -> Crowd:
        """Start it."""
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_be_a_crowd, args=(plan, theirs), daemon=True)
        process.start()
        theirs.close()
        return cls(process, ours, Counter(), [], {})

    def hear(self) -> None:
        """Take what it has told since."""
        while self.pipe.poll():
            self._take(self.pipe.recv())

    def ask(self, what: str) -> None:
        """Let it do something, and wait until it is done."""
        self.pipe.send(what)
        while (told := self.pipe.recv()) != "done":
            self._take(told)

    def _take(self, told: object) -> None:
        if isinstance(told, tuple):
            self.counts, self.wrong, self.failures = told


def _be_a_crowd(plan: Plan, pipe: Connection) -> None:
    import torch

    torch.set_num_threads(1)
    os.environ["SSL_CERT_FILE"] = plan.authority
    truth, contexts = make_contexts(plan.seed)
    stop, tally = threading.Event(), Tally()
    others = plan.others
    home = Home(plan.tenant, others, plan.port, contexts, truth, tally, stop, pause_s=plan.pause_s)
    clients = [
        Client(home, number, random.Random(f"{plan.seed} {number}"))
        for number in range(plan.clients)
    ]
    pipe.send("ready")
    if pipe.recv() == "live":
        threads = [threading.Thread(target=live, args=(one, DEEDS), daemon=True) for one in clients]
        for thread in threads:
            thread.start()
        pipe.send("done")
        while _told_meanwhile(pipe, tally) != "stop":
            tally.is_calm = True
            pipe.send("done")
        stop.set()
        for thread in threads:
            thread.join(_ENDS_S)
            if thread.is_alive():
                tally.blame(f"{plan.tenant.name}: a client did not come to its end")
        pipe.send(tally.snapshot())
        pipe.send("done")
    if pipe.recv() == "account":
        _account(clients, home)
        pipe.send(tally.snapshot())
        pipe.send("done")


def _told_meanwhile(pipe: Connection, tally: Tally) -> str:
    """What a crowd is told next; meanwhile it tells of itself."""
    while not pipe.poll(_TELLS_S):
        pipe.send(tally.snapshot())
    told: str = pipe.recv()
    return told


def _account(clients: list[Client], home: Home) -> None:
    takes = (partial(_own_objects, clients), partial(_contexts, home), partial(_ghosts, home))
    for take in takes:
        try:
            take(home.tally)
        except Exception as error:
            home.tally.blame(f"{home.tenant.name}: account: {type(error).__name__}: {error}")


def _own_objects(clients: list[Client], tally: Tally) -> None:
    """Every object that a client was told is there: it is whole, or was evicted."""
    for client in clients:
        for own in list(client.own):
            if client.check_own(own):
                tally.count("account: objects")


def _contexts(home: Home, tally: Tally) -> None:
    """A context that is found is whole, at one level at least; without other loads at once."""
    store = home.store()
    for context in home.contexts:
        if store.lookup([context.manifest_key]) == [None]:
            continue
        result = context.load(store, stall_s=10.0)
        flaw = home.truth.flaw(result, context.request)
        if not flaw and result.num_tokens < len(context.request.tokens):
            reasons = "; ".join(chunk.reason for chunk in result.chunks if chunk.reason)
            flaw = f"{result.num_tokens} of {len(context.request.tokens)} tokens: {reasons}"
        if flaw:
            tally.blame(f"{home.tenant.name}: a context that is found: {flaw}")
        tally.count("account: contexts")


def _ghosts(home: Home, tally: Tally) -> None:
    """Nothing is there that was not sent to its end."""
    for key in home.store().list(GHOSTS):
        tally.blame(f"{home.tenant.name}/{key} was never sent whole, and is there")
