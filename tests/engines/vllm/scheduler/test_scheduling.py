"""The scheduler's side, asked as vLLM asks it, without vLLM."""

from __future__ import annotations

import statistics
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from cachegen.bitstream.identity import PrefixKey, tokens_from_bytes
from cachegen.engines.vllm.config import read_config
from cachegen.engines.vllm.costs import Learned
from cachegen.engines.vllm.identity.request import RequestIdentity
from cachegen.engines.vllm.jobs import Report, Step
from cachegen.engines.vllm.metrics.counters import Counters
from cachegen.engines.vllm.scheduler import lookups
from cachegen.engines.vllm.scheduler.grouping import Grouping
from cachegen.engines.vllm.scheduler.lookups import Lookups, LookupSettings, Question
from cachegen.engines.vllm.scheduler.scheduling import Scheduling
from cachegen.errors import StoreError
from cachegen.policy.costs import Costs, DecodeCost, PrefillCost
from cachegen.store import open_store
from tests.toy import FINGERPRINT

SIZE, CHUNK = 16, 128
PROMPT = list(range(600))


class Engine:
    """vLLM's part: arrivals, allocations and steps of one scheduler."""

    def __init__(self, store, **extra) -> None:
        self.counters = Counters()
        extra = {"store": "memory:", "chunk_tokens": CHUNK, "level": "lossless", **extra}
        config = read_config(extra, role=extra.pop("role", "kv_both"))
        self.exact = not config.accepts_inexact
        settings = LookupSettings(store, None, config.level, SIZE, config.lookup_s)
        self.lookups = Lookups(settings)
        self.side = Scheduling(
            config,
            self.lookups,
            grouping=Grouping(SIZE, 0, SIZE),
            caches_prefixes=True,
            counters=self.counters,
        )
        self.blocks: dict[str, list[int]] = {}
        self.next_block = 1

    def arrives(self, name: str, tokens=PROMPT, *, salt: bytes = b"", may_load=True) -> None:
        key = PrefixKey(FINGERPRINT, salt, exact=self.exact)
        self.side.arrived(
            name,
            Question(tokens, (key,)),
            prompt_tokens=len(tokens),
            may_load=may_load,
            identity=RequestIdentity(salt),
        )

    def asks(self, name: str, local: int = 0) -> int | None:
        return self.side.ask(name, local)

    def hears(self, name: str, local: int = 0) -> int:
        """Ask until there is an answer."""
        deadline_s = time.monotonic() + 10
        while (found := self.asks(name, local)) is None:
            assert time.monotonic() < deadline_s, "never answered"
            time.sleep(0.001)
        return found

    def allocates(self, name: str, num_tokens: int, external: int = 0) -> None:
        held = self.blocks.setdefault(name, [])
        while len(held) * SIZE < num_tokens:
            held.append(self.next_block)
            self.next_block += 1
        self.side.allocated(name, (tuple(held),), external)

    def steps(self, new=(), known=(), finished=()) -> Step:
        """A step that computes (request, tokens before, tokens) of new and known requests."""
        for name, done, count in (*new, *known):
            self.allocates_quietly(name, done + count)
        counts = {name: count for name, _, count in (*new, *known)}
        output = SimpleNamespace(
            scheduled_new_reqs=[
                SimpleNamespace(req_id=name, num_computed_tokens=done) for name, done, _ in new
            ],
            scheduled_cached_reqs=SimpleNamespace(
                req_ids=[name for name, *_ in known],
                num_computed_tokens=[done for _, done, _ in known],
            ),
            num_scheduled_tokens=counts,
            total_num_scheduled_tokens=sum(counts.values()),
            kv_connector_block_state=SimpleNamespace(
                get_block_ids=lambda name: (list(self.blocks[name]),)
            ),
        )
        return self.side.step(output)

    def allocates_quietly(self, name: str, num_tokens: int) -> None:
        held = self.blocks.setdefault(name, [])
        while len(held) * SIZE < num_tokens:
            held.append(self.next_block)
            self.next_block += 1


@pytest.fixture
def stored(toy):
    """The first 512 tokens of the prompt."""
    store = open_store("memory:")
    toy.save(PROMPT[:512], store, levels=["lossless"])
    return store


class Dead:
    """A store that answers nothing, or with an error."""

    url = "dead:"

    def __init__(self, *, answers: bool) -> None:
        self.answers, self.go = answers, threading.Event()

    def _fail(self, *_args, **_options):
        if not self.answers:
            self.go.wait(5)
        raise StoreError("dead")

    get = lookup = put = _fail


def saves_of(step: Step) -> list[tuple[str, int, int]]:
    return [(job.request_id, job.start, job.stop) for job in step.saves]


def test_a_stored_beginning_is_loaded_and_the_rest_saved(stored) -> None:
    engine = Engine(stored)
    engine.arrives("a")
    assert engine.hears("a") == 512
    engine.allocates("a", 512, external=512)
    step = engine.steps()
    (job,) = step.loads
    assert (job.request_id, job.start, job.stop, job.blocks) == (
        "a",
        0,
        512,
        (tuple(range(1, 33)),),
    )
    assert tokens_from_bytes(job.tokens).tolist() == PROMPT[:512]
    assert not engine.steps().loads
    engine.side.ended(["a"], None)
    engine.allocates("a", 600)
    assert not engine.steps(new=[("a", 512, 88)]).saves, "no whole chunk is new"
    assert engine.counters.take() == {"hits": 1, "tokens_hit": 512}


@pytest.mark.parametrize(("local", "rest"), [(0, 512), (16, 496), (256, 256), (496, 16), (512, 0)])
def test_only_what_vllm_lacks_is_loaded(stored, local: int, rest: int) -> None:
    engine = Engine(stored)
    engine.arrives("a")
    assert engine.hears("a", local) == rest
    if rest:
        engine.allocates("a", 512, external=rest)
        (job,) = engine.steps().loads
        assert (job.start, job.stop) == (local, 512)


def test_new_chunks_are_saved_once_they_are_whole(toy) -> None:
    engine = Engine(open_store("memory:"))
    engine.arrives("a")
    assert engine.hears("a") == 0
    assert saves_of(engine.steps(new=[("a", 0, 100)])) == []
    assert saves_of(engine.steps(known=[("a", 100, 100)])) == [("a", 0, 128)]
    step = engine.steps(known=[("a", 200, 400)])
    assert saves_of(step) == [("a", 128, 512)]
    assert step.saves[0].blocks == (tuple(range(1, 39)),) and step.saves[0].exact
    assert saves_of(engine.steps(known=[("a", 600, 1)])) == []
    assert engine.counters.take() == {"misses:absent": 1}


def test_twins_save_once_and_what_was_not_saved_again(toy) -> None:
    engine = Engine(open_store("memory:"))
    for name in ("a", "b", "c"):
        engine.arrives(name)
        assert engine.hears(name) == 0
    step = engine.steps(new=[("a", 0, 300)])
    assert saves_of(step) == [("a", 0, 256)]
    assert saves_of(engine.steps(new=[("b", 0, 600)])) == [("b", 256, 512)]
    engine.side.ended([], Report(unsaved=step.saves[0].ids))
    assert saves_of(engine.steps(new=[("c", 0, 600)])) == [("c", 0, 512)]


def test_tenants_do_not_meet(stored, toy) -> None:
    engine = Engine(stored)
    engine.arrives("a", salt=b"tenant")
    assert engine.hears("a") == 0
    (job,) = engine.steps(new=[("a", 0, 600)]).saves
    assert job.identity.salt == b"tenant"
    engine.arrives("b", salt=b"other")
    assert engine.hears("b") == 0
    assert saves_of(engine.steps(new=[("b", 0, 600)])) == [("b", 0, 512)]


def test_twins_load_once(stored) -> None:
    engine = Engine(stored, max_loads=2)
    engine.arrives("a")
    engine.arrives("b")
    assert engine.hears("a") == 512
    engine.allocates("a", 512, external=512)
    time.sleep(0.05)
    assert engine.asks("b") is None
    engine.side.ended(["a"], None)
    assert engine.asks("b") is None, "the blocks are not vLLM's yet"
    engine.allocates("a", 600)
    assert engine.asks("b", 512) == 0


def test_a_failed_load_is_not_tried_again(stored) -> None:
    engine = Engine(stored)
    engine.arrives("a")
    engine.arrives("b")
    assert engine.hears("a") == 512
    engine.allocates("a", 512, external=512)
    engine.side.ended(["a"], Report(short=("a",), failed=("a",)))
    assert engine.asks("a") == 0
    assert engine.hears("b") == 0
    assert engine.counters.take()["misses:failed lately"] == 1


def test_only_so_many_loads_are_under_way(toy) -> None:
    store = open_store("memory:")
    others = [[seed, *PROMPT[1:]] for seed in (1000, 1001)]
    for tokens in others:
        toy.save(tokens[:512], store, levels=["lossless"])
    engine = Engine(store, max_loads=1)
    engine.arrives("a", others[0])
    engine.arrives("b", others[1])
    engine.arrives("c", [7] * 600)
    assert engine.hears("a") == 512
    engine.allocates("a", 512, external=512)
    assert engine.hears("c") == 0, "who loads nothing is not held up"
    time.sleep(0.05)
    assert engine.asks("b") is None
    engine.side.ended(["a"], None)
    assert engine.asks("b") == 512


def test_an_aborted_load_is_dropped(stored) -> None:
    engine = Engine(stored)
    engine.arrives("a")
    assert engine.hears("a") == 512
    engine.allocates("a", 512, external=512)
    engine.steps()
    engine.side.finished("a")
    assert engine.steps().dropped == ["a"]
    engine.side.ended(["a"], Report(short=("a",)))


@pytest.mark.parametrize("answers", [True, False])
def test_a_dead_store_costs_a_request_its_patience_at_most(answers: bool) -> None:
    store = Dead(answers=answers)
    engine = Engine(store, lookup_s=1.0)
    engine.arrives("a")
    assert engine.hears("a") == 0
    assert not engine.steps(new=[("a", 0, 600)]).saves
    counts = engine.counters.take()
    assert counts["saves_shed:lookup"] == 1
    assert counts["misses:StoreError" if answers else "misses:late"] == 1
    if not answers:
        engine.lookups.settings = replace(engine.lookups.settings, lookup_s=1000.0)
        engine.arrives("b")
        assert engine.hears("b") == 0, "nobody is as patient again"
    store.go.set()


class Hung:
    """A store that does not answer as long as a test wants, and knows who waits."""

    def __init__(self, inner) -> None:
        self.inner, self.go, self.is_hung = inner, threading.Event(), True
        self.waiting: list[str] = []

    def __getattr__(self, name: str):
        return getattr(self.inner, name)

    def lookup(self, keys):
        if self.is_hung:
            self.waiting.append(threading.current_thread().name)
            self.go.wait(60)
        return self.inner.lookup(keys)


def test_lookups_that_never_end_do_not_hold_up_others(stored, monkeypatch) -> None:
    store = Hung(stored)
    engine = Engine(store, lookup_s=60.0)
    for number in range(lookups._THREADS):
        engine.arrives(f"r{number}")
    deadline_s = time.monotonic() + 20
    while len(store.waiting) < lookups._THREADS:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    store.is_hung = False
    monkeypatch.setattr(lookups, "_GIVEN_UP_S", 0.0)
    engine.arrives("a")
    monkeypatch.undo()
    assert engine.hears("a") == 512
    store.go.set()


def test_roles(stored) -> None:
    producer, consumer = Engine(stored, role="kv_producer"), Engine(stored, role="kv_consumer")
    for engine in (producer, consumer):
        engine.arrives("a")
    assert producer.hears("a") == 0 and consumer.hears("a") == 512
    longer = [*PROMPT, *range(100)]
    for engine in (producer, consumer):
        engine.arrives("b", longer)
        engine.hears("b", 512)
    assert saves_of(producer.steps(new=[("b", 0, 700)])) == [("b", 512, 640)]
    assert saves_of(consumer.steps(new=[("b", 0, 700)])) == []


def test_what_follows_lossy_tokens_is_inexact(toy) -> None:
    store = open_store("memory:")
    toy.save(PROMPT[:256], store, levels=["high"])
    engine = Engine(store, level="high")
    engine.arrives("a")
    assert engine.hears("a") == 256
    engine.allocates("a", 256, external=256)
    engine.side.ended(["a"], None)
    engine.allocates("a", 600)
    (job,) = engine.steps(new=[("a", 256, 344)]).saves
    assert (job.start, job.stop, job.exact) == (256, 512, False)
    # Another request finds these blocks in vLLM's cache.
    engine.blocks["b"] = engine.blocks["a"][:32]
    engine.arrives("b", [*PROMPT[:512], *range(900, 1100)])
    assert engine.hears("b", 512) == 0
    (job,) = engine.steps(new=[("b", 512, 200)]).saves
    assert (job.start, job.stop, job.exact) == (512, 640, False)
    # Blocks that are written anew count as what they hold then.
    engine.blocks["c"] = engine.blocks["a"][:40]
    engine.arrives("c", [5] * 600)
    assert engine.hears("c") == 0
    (job,) = engine.steps(new=[("c", 0, 600)]).saves
    assert job.exact


def test_a_request_that_may_not_load_still_saves(stored) -> None:
    engine = Engine(stored)
    engine.arrives("a", [*PROMPT, *range(100)], may_load=False)
    assert engine.hears("a") == 0
    assert saves_of(engine.steps(new=[("a", 0, 700)])) == [("a", 512, 640)]


def test_requests_of_others_are_left_alone(stored) -> None:
    engine = Engine(stored)
    engine.side.arrived("a", None, prompt_tokens=0, may_load=True, identity=None)
    engine.arrives("short", PROMPT[:100])
    assert engine.asks("a") == engine.asks("short") == engine.asks("unknown") == 0
    assert not engine.steps(new=[("a", 0, 600), ("short", 0, 100)]).saves


def test_answers_take_microseconds(stored) -> None:
    engine = Engine(stored)
    names = [f"r{n}" for n in range(200)]
    for name in names:
        engine.arrives(name)
    for name in names:
        engine.hears(name)
    times = []
    for name in names * 5:
        began_s = time.perf_counter()
        engine.asks(name)
        times.append(time.perf_counter() - began_s)
    assert statistics.median(times) < 50e-6


def test_a_load_that_cannot_be_planned_is_told_as_one_of_nothing(stored) -> None:
    engine = Engine(stored)
    engine.allocates("unknown", 64, external=64)
    (job,) = engine.steps().loads
    assert (job.request_id, job.tokens, job.start, job.stop) == ("unknown", b"", 0, 64)


def test_a_save_that_cannot_be_planned_costs_nothing_else(stored, monkeypatch) -> None:
    engine = Engine(stored)
    engine.arrives("a")
    engine.arrives("b", [9] * 600)
    assert engine.hears("b") == 0 and engine.hears("a") == 512
    engine.allocates("a", 512, external=512)
    monkeypatch.setattr(engine.side, "_save", lambda *_: 1 / 0)
    assert [job.request_id for job in engine.steps(new=[("b", 0, 600)]).loads] == ["a"]


def test_a_load_that_did_not_pay_holds_others_back(stored, toy) -> None:
    other = [1000, *PROMPT[1:]]
    toy.save(other[:512], stored, levels=["lossless"])
    engine = Engine(stored)
    engine.arrives("a")
    engine.arrives("b", other)
    assert engine.hears("a") == 512
    engine.allocates("a", 512, external=512)
    engine.side.ended(["a"], Report(short=("a",)))
    assert engine.hears("b") == 0
    assert engine.counters.take()["misses:link slow"] == 1


# By what is known, of decoding or of the link, no load pays.
BAD = {
    "decoder": Learned(Costs(PrefillCost(0.0, 0.001), {"lossless": DecodeCost(10.0)}), 1e9),
    "link": Learned(Costs(PrefillCost(0.0, 0.001)), 1.0),
}


@pytest.mark.parametrize("why", BAD)
def test_what_was_once_slow_is_tried_again(stored, why: str) -> None:
    """Nothing but a load measures anew: one is begun, and is told that it is a trial."""
    engine = Engine(stored)
    engine.side.learn(BAD[why])
    for number in range(3):
        name = f"r{number}"
        engine.arrives(name)
        assert engine.hears(name) == 512
        engine.allocates(name, 512, external=512)
        (job,) = engine.steps().loads
        assert job.is_trial and (job.start, job.stop) == (0, 512)
        engine.side.ended([name], None)
        engine.allocates(name, 600)
        engine.side.finished(name)
    assert engine.counters.take() == {"hits": 3, "tokens_hit": 3 * 512, "trials": 3}


def test_a_trial_that_did_not_pay_holds_back_trials_and_nothing_else(stored, toy) -> None:
    other = [1000, *PROMPT[1:]]
    toy.save(other[:512], stored, levels=["lossless"])
    engine = Engine(stored)
    engine.side.learn(BAD["link"])
    engine.arrives("a")
    assert engine.hears("a") == 512
    engine.allocates("a", 512, external=512)
    engine.arrives("b", other)
    assert engine.hears("b") == 0, "one trial at a time"
    engine.side.ended(["a"], Report(short=("a",)))
    engine.arrives("c", other)
    assert engine.hears("c") == 0
    assert engine.counters.take()["misses:sooner computed"] == 2
    engine.side.ended([], Report(learned=Learned(BAD["link"].costs, 1e9)))
    engine.arrives("d", other)
    assert engine.hears("d") == 512
    engine.allocates("d", 512, external=512)
    assert not engine.steps().loads[-1].is_trial


def test_what_was_evicted_is_saved_again(toy) -> None:
    engine = Engine(open_store("memory:"))
    engine.arrives("a")
    assert engine.hears("a") == 0
    (job,) = engine.steps(new=[("a", 0, 600)]).saves
    engine.arrives("b")
    assert engine.hears("b") == 0
    engine.side.ended([], Report(saved=job.ids))
    assert not engine.steps(new=[("b", 0, 600)]).saves, "b was looked up before"
    engine.arrives("c")
    assert engine.hears("c") == 0
    assert saves_of(engine.steps(new=[("c", 0, 600)])) == [("c", 0, 512)]
