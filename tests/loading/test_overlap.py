"""Link, decoder and model at once; many loads at once; loads that are cancelled."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from cachegen.errors import LoadCancelled
from cachegen.loading.resources import measurements_of, model_queue_of
from cachegen.policy.controller import Decision, LoadState, Resource, Status
from cachegen.policy.min_ttft import MinTTFT
from cachegen.store import open_store

TOKENS = list(range(640))


@dataclass
class Script:
    """Does as it is told: for each chunk a level, or `text`; the link works from the back."""

    levels: list[str]
    abandon: dict[int, str] = field(default_factory=dict)

    def choose(self, state: LoadState, resource: Resource) -> Decision | None:
        if resource == "model":
            is_text = self.levels[state.front] == "text"
            return Decision.recompute(state.front, "as told") if is_text else None
        for index in reversed(range(len(state.chunks))):
            waits = state.chunks[index].status is Status.WAITING
            if waits and self.levels[index] != "text":
                return Decision.fetch(index, self.levels[index], "as told")
        return None

    def reconsider(self, state: LoadState) -> Decision | None:
        assert state.transfer is not None
        level = self.abandon.pop(state.transfer.chunk, None)
        return Decision.fetch(state.transfer.chunk, level, "changed my mind") if level else None


@pytest.fixture(scope="module")
def full(toy):
    store = open_store("memory:")
    toy.save(TOKENS, store, profile=toy.profile)
    return store


def levels_of(result) -> list[str | None]:
    return [chunk.level for chunk in result.chunks]


def test_front_and_back_at_the_same_time(toy, full) -> None:
    levels = ["text", "text", "low", "high", "lossless"]
    recompute = toy.recompute(TOKENS)
    result = toy.load(TOKENS, full, controller=Script(levels), recompute=recompute)
    assert levels_of(result) == levels
    assert recompute.ranges == [(0, 128), (128, 256)]
    fetched = [span.chunk for span in result.spans if span.work == "fetch"]
    assert fetched == [4, 3, 2]
    toy.check(result, TOKENS, exact=False)


def test_a_recomputed_chunk_is_given_all_that_is_before_it(toy, full) -> None:
    """Also what was decoded: the past is the very cache that the result holds."""
    pasts, truth = [], toy.recompute(TOKENS)

    def recompute(tokens, *, past):
        pasts.append([plane.clone() for plane in past.planes()])
        return truth(tokens, past=past)

    script = Script(["low", "low", "text", "low", "low"])
    result = toy.load(TOKENS, full, controller=script, recompute=recompute)
    (past,) = pasts
    for known, plane in zip(past, result.kv.slice(0, 256).planes(), strict=True):
        assert known.equal(plane)


def test_a_transfer_may_be_abandoned(toy, full) -> None:
    script = Script(["lossless"] * 5, abandon={2: "low"})
    result = toy.load(TOKENS, full, controller=script)
    outcomes = Counter(span.outcome for span in result.spans if span.work == "fetch")
    abandoned = outcomes.get("abandoned", 0)
    assert (
        levels_of(result)
        == ["lossless"] * 2 + ["low" if abandoned else "lossless"] + ["lossless"] * 2
    )
    assert outcomes["done"] == 5
    toy.check(result, TOKENS, exact=False)


def test_the_next_chunk_is_asked_for_before_the_last_one_is_there(toy, full) -> None:
    """The first transfer ends only once the second has been asked for."""
    asked: list[str] = []
    second = threading.Event()

    @dataclass
    class Far:
        url: str = "memory://far"

        def lookup(self, keys):
            return full.lookup(keys)

        def get(self, key, range=None):
            if not key.startswith("chunks/"):
                yield from full.get(key, range)
                return
            asked.append(key)
            if len(asked) == 2:
                second.set()
            data = b"".join(full.get(key, range))
            yield data[:-1]
            assert second.wait(10), "the link waits for the end of the first transfer"
            yield data[-1:]

    measurements_of(toy.fingerprint, "cpu").add_link("memory://far", 1e6, 0.5)
    result = toy.load(TOKENS, Far(), controller=Script(["high"] * 5))
    assert levels_of(result) == ["high"] * 5
    spans = [span for span in result.spans if span.work == "fetch"]
    assert spans[1].began_s < spans[0].ended_s
    assert result.fetch_s <= result.ttft_s
    toy.check(result, TOKENS, exact=False)


@pytest.mark.parametrize("wrong", ["high", "text"])
def test_a_controller_that_asks_for_the_impossible(toy, wrong: str) -> None:
    store = open_store("memory:")
    toy.save(TOKENS, store, levels=["raw"])

    class Wrong(Script):
        def choose(self, state: LoadState, resource: Resource) -> Decision | None:
            return Decision(3, "recompute" if wrong == "text" else "fetch", wrong, "why not")

    with pytest.raises(ValueError, match="chunk 3 cannot be"):
        toy.load(TOKENS, store, controller=Wrong([]), recompute=toy.recompute(TOKENS))


def test_a_controller_that_never_decides_does_not_hang_the_load(toy, full) -> None:
    class Idle(Script):
        def choose(self, state: LoadState, resource: Resource) -> Decision | None:
            return None

    recompute = toy.recompute(TOKENS)
    result = toy.load(TOKENS, full, controller=Idle([]), recompute=recompute)
    assert levels_of(result) == ["text"] * 5
    toy.check(toy.load(TOKENS, full, controller=Idle([])), TOKENS, exact=True)


def test_progress_is_told(toy, full) -> None:
    seen: list[tuple[int, int]] = []
    toy.load(TOKENS, full, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(128 * n, 640) for n in range(1, 6)]


def test_level_and_controller_are_one_too_many(toy, full) -> None:
    with pytest.raises(ValueError, match="a level or a controller"):
        toy.load(TOKENS, full, level="low", controller=Script([]))


def test_a_load_is_cancelled(toy, full, intercept) -> None:
    cancel, hold = threading.Event(), threading.Event()

    def wait(key: str) -> None:
        if key.startswith("chunks/"):
            cancel.set()
            hold.wait(20)

    with pytest.raises(LoadCancelled):
        toy.load(TOKENS, intercept(full, before_get=wait), cancel=cancel)
    hold.set()


def test_a_load_is_cancelled_while_it_recomputes(toy, full) -> None:
    cancel, truth = threading.Event(), toy.recompute(TOKENS)

    def recompute(tokens, *, past):
        cancel.set()
        return truth(tokens, past=past)

    with pytest.raises(LoadCancelled):
        toy.load(TOKENS, full, controller=Script(["text"] * 5), recompute=recompute, cancel=cancel)
    assert truth.ranges == [(0, 128)]


def test_an_interrupted_model_ends_the_load(toy, full) -> None:
    def recompute(tokens, *, past):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        toy.load(TOKENS, full, controller=Script(["text"] * 5), recompute=recompute)
    assert "cachegen-load" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_the_model_is_free_again_after_a_load_that_failed(toy, full, error) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    class Failing(Script):
        def choose(self, state: LoadState, resource: Resource) -> Decision | None:
            if resource == "model":
                raise error
            return None

    with pytest.raises(error):
        toy.load(TOKENS, full, controller=Script(["text"] * 5), recompute=fail)
    with pytest.raises(error):
        toy.load(TOKENS, full, controller=Failing([]), recompute=fail)
    recompute = toy.recompute(TOKENS)
    result = toy.load(TOKENS, full, controller=Script(["text"] * 5), recompute=recompute)
    assert levels_of(result) == ["text"] * 5


def test_a_load_that_waits_for_the_model_is_cancelled(toy, full) -> None:
    turn, cancel = model_queue_of(toy.fingerprint, "cpu").queue(None), threading.Event()
    threading.Timer(0.2, cancel.set).start()
    empty = open_store("memory:")
    toy.save(TOKENS, empty, levels=["raw"])
    for chunk in toy.save(TOKENS, empty, levels=["raw"]).chunks:
        empty.delete(chunk.objects[0].key)
    with pytest.raises(LoadCancelled):
        toy.load(TOKENS, empty, recompute=toy.recompute(TOKENS), cancel=cancel)
    model_queue_of(toy.fingerprint, "cpu").end(turn)


def test_the_same_chunk_is_fetched_once_for_two(toy, full, intercept) -> None:
    asked, both = Counter(), threading.Barrier(2)
    hold = threading.Event()

    def count(key: str) -> None:
        if key.startswith("chunks/"):
            asked[key] += 1
            hold.wait(20)

    store = intercept(full, before_get=count)

    def load(_: int):
        both.wait(10)
        return toy.load(TOKENS[:128], store, level="lossless")

    with ThreadPoolExecutor(2) as pool:
        loads = [pool.submit(load, number) for number in range(2)]
        threading.Timer(0.5, hold.set).start()
        results = [future.result(30) for future in loads]
    assert list(asked.values()) == [1]
    for result in results:
        toy.check(result, TOKENS, exact=True)


def test_many_loads_at_once_take_turns_at_the_model(toy, full) -> None:
    running, most = Counter(), []
    truth = toy.kv(TOKENS)

    def recompute(tokens, *, past):
        running["now"] += 1
        most.append(running["now"])
        start = 0 if past is None else past.num_tokens
        part = truth.slice(start, start + len(tokens))
        time.sleep(0.002)
        running["now"] -= 1
        return part

    class Eager(Script):
        """The model where it is free, else the link; whoever is left waits for the model."""

        def choose(self, state: LoadState, resource: Resource) -> Decision | None:
            if resource == "model":
                return Decision.recompute(state.front, "it is free")
            if state.recompute_began_s is None:
                return None
            return super().choose(state, resource)

    def load(_: int):
        script = Eager(["lossless"] * 5)
        return toy.load(TOKENS, full, controller=script, recompute=recompute)

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(load, range(16)))
    assert max(most) == 1
    for result in results:
        assert set(levels_of(result)) <= {"text", "lossless"}
        assert "text" in levels_of(result)
        toy.check(result, TOKENS, exact=True)


def test_the_library_s_own_choice(toy, full) -> None:
    """Whatever it does on this machine, the promise of the default level holds."""
    for _ in range(3):
        result = toy.load(
            TOKENS, full, controller=MinTTFT(), recompute=toy.recompute(TOKENS), profile=toy.profile
        )
        assert set(levels_of(result)) <= {"text", "medium", "high", "highest", "lossless"}
        toy.check(result, TOKENS, exact=result.exact)
