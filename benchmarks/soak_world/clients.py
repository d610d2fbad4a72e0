"""Clients of one tenant: threads that save, load, delete and misbehave, and note what they may."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from cachegen.errors import KeyNotFound, LoadCancelled, StoreError, StoreFull
from cachegen.loading.result import LoadResult
from cachegen.netem.relay import LOOPBACK
from cachegen.store import Store, open_store, read
from faults.truth import Truth
from soak_world.contexts import Context
from soak_world.objects import content_of, draw_size, key_of
from soak_world.service import Tenant
from soak_world.tally import Tally

# Arbitrary: 20 to 500 do. With as many objects each, clients of a tenant without a quota want more
# than the capacity.
_MAX_OWN = 60
# 16 clients fill two thirds of the capacity. Arbitrary: 5 to 20 do.
_FIRST = 10
_TIMEOUT_S = 10.0


class Given(Exception):
    """A save that its caller gives up."""


@dataclass(slots=True)
class Own:
    """An object that a client has put.

    Attributes:
        key: its key, which tells its bytes.
        is_sure: whether the server said that it is there.
    """

    key: str
    is_sure: bool


@dataclass(frozen=True, slots=True, eq=False)
class Home:
    """What the clients of a tenant share.

    Attributes:
        tenant: theirs.
        others: the folders of the other tenants.
        port: of the server.
        contexts: what they save and load.
        truth: what that must give.
        tally: of what was done.
        stop: ends them.
        pause_s: how long a client thinks, on average.
    """

    tenant: Tenant
    others: list[str]
    port: int
    contexts: list[Context]
    truth: Truth
    tally: Tally
    stop: threading.Event
    pause_s: float

    def store(self, token: str | None = None) -> Store:
        """The tenant's store, or that of another token."""
        token = self.tenant.token if token is None else token
        return open_store(f"cachegens://:{token}@{LOOPBACK}:{self.port}", timeout_s=_TIMEOUT_S)


@dataclass(slots=True, eq=False)
class Client:
    """A client that remembers what it has put.

    Attributes:
        home: its tenant's.
        number: which of the tenant's it is.
        rng: decides.
        store: what it asks.
        own: its objects, oldest first.
    """

    home: Home
    number: int
    rng: random.Random
    store: Store = field(init=False)
    own: deque[Own] = field(default_factory=deque)
    _puts: int = 0

    def __post_init__(self) -> None:
        self.store = self.home.store()

    def save(self) -> None:
        """Save a context, whoever has saved it before."""
        self._context().save(self.store)

    def save_part(self) -> None:
        """Begin to save a context, and give up."""
        left = self.rng.randrange(1, 4)

        def give_up(done: int, total: int) -> None:
            if done >= left:
                raise Given

        with suppress(Given):
            self._context().save(self.store, progress=give_up)

    def load(self) -> None:
        """Load a context, with or without a model, at a level or at any."""
        context, options = self._context(), {}
        if self.rng.random() < 0.7:
            options["level"] = self.rng.choice(context.levels)
        if self.rng.random() < 0.3:
            options["recompute"] = self.home.truth.model.recompute
        self._check(context, context.load(self.store, **options), "load")

    def load_cancelled(self) -> None:
        """Load a context, and give up meanwhile."""
        context, cancel = self._context(), threading.Event()
        timer = threading.Timer(self.rng.uniform(0, 0.1), cancel.set)
        timer.start()
        try:
            self._check(context, context.load(self.store, cancel=cancel), "late")
        except LoadCancelled:
            self.home.tally.count("cancelled")
        finally:
            timer.cancel()

    def forget(self) -> None:
        """Delete a context's manifest."""
        self.store.delete(self._context().manifest_key)

    def put(self) -> None:
        """Put an object, after another one has gone where there are many."""
        if len(self.own) >= _MAX_OWN:
            self.settle()
        key = self.next_key(draw_size(self.rng))
        own = Own(key, is_sure=False)
        self.own.append(own)
        try:
            # Nobody else has this key: where it was taken, the client's first try got through.
            self.store.put(key, content_of(self.home.tenant.name, key))
            own.is_sure = True
        except StoreFull:
            self.own.remove(own)
            for _ in range(min(3, len(self.own))):
                self.settle()
            raise

    def settle(self) -> None:
        """Check one of the oldest objects, and delete it."""
        own = self.own.popleft()
        if not self.check_own(own):
            return
        try:
            self.store.delete(own.key)
        except StoreError:
            own.is_sure = False
            self.own.append(own)
            raise
        if own.is_sure and self.store.lookup([own.key]) != [None]:
            self.home.tally.blame(f"{self._name(own.key)} is there after it was deleted")

    def check_own(self, own: Own) -> bool:
        """Whether an object of its own is there, as it must be."""
        tally = self.home.tally
        try:
            found = read(self.store, own.key)
        except KeyNotFound:
            tally.count("missing", int(own.is_sure))
            if own.is_sure and self.home.tenant.is_modest:
                tally.blame(f"{self._name(own.key)} was acknowledged, and is gone")
            return False
        except StoreError:
            self.own.append(own)
            raise
        if found != content_of(self.home.tenant.name, own.key):
            tally.blame(f"{self._name(own.key)} has other bytes than were put")
        tally.count("whole")
        return True

    def get(self) -> None:
        """Read an object, or a part of it."""
        if not self.own:
            return
        key = self.rng.choice(list(self.own)).key
        content = content_of(self.home.tenant.name, key)
        start = self.rng.randrange(len(content))
        stop = self.rng.randrange(start, len(content)) + 1
        wanted = None if self.rng.random() < 0.5 else (start, stop)
        found = b"".join(bytes(part) for part in self.store.get(key, wanted))
        if found != (content if wanted is None else content[start:stop]):
            self.home.tally.blame(f"{self._name(key)} {wanted}: got other bytes")

    def list_keys(self) -> None:
        """List objects: each is one that some client of the tenant may have put."""
        for key in self.store.list(f"raw/{self.number:02}"):
            if int(key.split("/")[2].split("-")[0]) > self._puts:
                self.home.tally.blame(f"{self._name(key)} is listed, and nobody has put it")

    def next_key(self, size_bytes: int) -> str:
        """A key that nobody has used."""
        self._puts += 1
        return key_of(self.number, self._puts, size_bytes)

    def _context(self) -> Context:
        return self.rng.choice(self.home.contexts)

    def _check(self, context: Context, result: LoadResult, what: str) -> None:
        flaw = self.home.truth.flaw(result, context.request)
        if flaw:
            self.home.tally.blame(f"{self.home.tenant.name}: {what}: {flaw}")
        is_all = result.num_tokens == len(context.request.tokens)
        self.home.tally.count(f"{what} whole" if is_all else f"{what} part")

    def _name(self, key: str) -> str:
        return f"{self.home.tenant.name}/{key}"


Deed = Callable[[Client], None]


def fill(client: Client) -> None:
    """Put some objects at once, so that a short run evicts too."""
    for _ in range(_FIRST):
        try:
            client.put()
        except StoreError as error:
            client.home.tally.fail("put", error)


def live(client: Client, deeds: Mapping[str, tuple[Deed, int]]) -> None:
    """Do one thing after another until the end; each weighs as much as it says."""
    home, names = client.home, list(deeds)
    if not home.tenant.limits:
        fill(client)
    weights = [weight for _, weight in deeds.values()]
    while not home.stop.wait(client.rng.uniform(0, 2 * home.pause_s)):
        (name,) = client.rng.choices(names, weights)
        began_s = time.monotonic()
        try:
            deeds[name][0](client)
            home.tally.count(name)
        except (StoreError, OSError) as error:
            home.tally.fail(name, error)
        except Exception as error:
            home.tally.blame(f"{home.tenant.name}: {name}: {type(error).__name__}: {error}")
        if time.monotonic() - began_s > 60:
            home.tally.blame(f"{name} took {time.monotonic() - began_s:.0f} s")
