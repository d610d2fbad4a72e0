"""Every controller drives loads on a virtual clock; what comes out is compared with all plans."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachegen.policy.algorithm1 import Algorithm1
from cachegen.policy.controller import (
    MAX_UNDECODED,
    ChunkState,
    Controller,
    Decision,
    LoadState,
    Option,
    Resource,
    Status,
    Transfer,
)
from cachegen.policy.costs import Costs, DecodeCost, PrefillCost
from cachegen.policy.deadline import SafetyMargins
from cachegen.policy.fixed import Fixed
from cachegen.policy.min_ttft import MinTTFT
from cachegen.policy.schedule import request_due_s

LEVELS = ("low", "medium", "high", "highest", "packed", "lossless", "raw")
DEFAULT = LEVELS.index("high")
TICK_S = 0.01
CONTROLLERS = (Algorithm1(), Fixed("high"), MinTTFT())


@dataclass
class World:
    """A link of constant pieces, one decoder, one model; nothing but virtual time passes."""

    state: LoadState
    controller: Controller
    rates: Sequence[tuple[float, float]]
    broken: frozenset[tuple[int, str]] = frozenset()
    knows_rate: bool = True
    decoding: list[int] = field(default_factory=list)
    decoder_free_s: float = math.inf
    model_free_s: float = math.inf
    missing: float = 0.0
    fetched_bytes: int = 0
    decisions: list[Decision] = field(default_factory=list)

    def run(self) -> float:
        """When every chunk is there."""
        for _ in range(100_000):
            self.decide()
            if self.state.is_done:
                return self.state.now_s
            self.advance(self.next_s())
        raise AssertionError("a load without end")

    def rate(self) -> tuple[float, float]:
        """Bytes per second now, and until when."""
        ends_s = 0.0
        for seconds, rate in self.rates:
            ends_s += seconds
            if self.state.now_s < ends_s:
                return rate, ends_s
        return self.rates[-1][1], math.inf

    def next_s(self) -> float:
        state = self.state
        soonest = min(self.decoder_free_s, self.model_free_s)
        if state.transfer is not None:
            rate, ends_s = self.rate()
            done_s = max(state.now_s, self.flows_from_s()) + self.missing / rate
            tick_s = max(TICK_S, state.transfer.option.size_bytes / rate / 10)
            tick_s = min(request_due_s(state) or tick_s, tick_s)
            soonest = min(soonest, done_s, ends_s, state.now_s + tick_s)
        assert soonest < math.inf, f"everything is idle: {state}"
        return soonest

    def advance(self, until_s: float) -> None:
        state = self.state
        flowing_s = until_s - max(state.now_s, self.flows_from_s())
        if state.transfer is not None and flowing_s > 0:
            self.missing -= flowing_s * self.rate()[0]
            state.transfer.received_bytes = int(state.transfer.option.size_bytes - self.missing)
        state.now_s = until_s
        if state.transfer is not None and self.missing < 1e-3:
            self.fetched(state.transfer)
        if until_s >= self.decoder_free_s:
            self.done(self.decoding.pop(0))
            self.decoder_free_s, state.decode_began_s = math.inf, None
        if until_s >= self.model_free_s:
            self.model_free_s, state.recompute_began_s = math.inf, None
            self.done(state.front)
        if self.decoding and self.decoder_free_s == math.inf:
            chunk = state.chunks[self.decoding[0]]
            seconds = state.costs.decode_s(chunk.level or "", chunk.num_tokens)
            self.decoder_free_s, state.decode_began_s = until_s + seconds, until_s

    def flows_from_s(self) -> float:
        """When the first byte of the older transfer comes."""
        transfer = self.state.transfer
        return 0.0 if transfer is None else transfer.began_s + self.state.costs.request_s

    def end(self, transfer: Transfer) -> None:
        self.state.transfers.remove(transfer)
        if self.state.transfer is not None:
            self.missing = self.state.transfer.missing_bytes

    def fetched(self, transfer: Transfer) -> None:
        chunk = self.state.chunks[transfer.chunk]
        self.end(transfer)
        self.fetched_bytes += transfer.option.size_bytes
        if (transfer.chunk, transfer.option.level) in self.broken:
            chunk.status, chunk.level = Status.WAITING, None
            chunk.options = tuple(o for o in chunk.options if o is not transfer.option)
        else:
            chunk.status = Status.DECODING
            self.decoding.append(transfer.chunk)

    def done(self, index: int) -> None:
        self.state.chunks[index].status = Status.DONE
        self.state.advance_front()

    def decide(self) -> None:
        state = self.state
        if state.is_done:
            return
        if self.knows_rate or state.transfer is None or state.transfer.received_bytes:
            state.bytes_per_s = self.rate()[0] if self.knows_rate or self.fetched_bytes else None
        if state.transfer is not None:
            self.abandon(self.controller.reconsider(state))
        while not request_due_s(state) and len(self.decoding) <= MAX_UNDECODED:
            decision = self.controller.choose(state, "link")
            self.carry_out(decision)
            if decision is None:
                break
        if state.recompute_began_s is None and state.can_recompute:
            self.carry_out(self.controller.choose(state, "model"))

    def abandon(self, decision: Decision | None) -> None:
        if decision is None:
            return
        for given_up in self.state.transfers[self.state.place_of(decision.chunk) :][::-1]:
            self.end(given_up)
            chunk = self.state.chunks[given_up.chunk]
            chunk.status, chunk.level = Status.WAITING, None
        self.carry_out(decision)

    def carry_out(self, decision: Decision | None) -> None:
        if decision is None:
            return
        state, chunk = self.state, self.state.chunks[decision.chunk]
        self.decisions.append(decision)
        assert chunk.status is Status.WAITING, decision
        chunk.level = decision.level
        if decision.action == "recompute":
            assert decision.chunk == state.front and state.recompute_began_s is None
            chunk.status, state.recompute_began_s = Status.RECOMPUTING, state.now_s
            prefill = state.costs.prefill or PrefillCost(0.01, 1e-4)
            self.model_free_s = state.now_s + prefill.seconds(chunk.num_tokens, past=chunk.start)
            return
        option = chunk.option(decision.level)
        assert option is not None, decision
        chunk.status = Status.FETCHING
        if not state.transfers:
            self.missing = option.size_bytes
        state.transfers.append(Transfer(decision.chunk, option, state.now_s))


@dataclass(frozen=True)
class Watched:
    """A controller whose states must stay as they are, and who must answer the same twice."""

    inner: Controller

    def choose(self, state: LoadState, resource: Resource) -> Decision | None:
        before = copy.deepcopy(state)
        decision = self.inner.choose(state, resource)
        assert state == before
        assert self.inner.choose(before, resource) == decision
        return decision

    def reconsider(self, state: LoadState) -> Decision | None:
        before = copy.deepcopy(state)
        decision = self.inner.reconsider(state)
        assert state == before
        assert self.inner.reconsider(before) == decision
        return decision


@st.composite
def loads(draw: st.DrawFn) -> tuple[LoadState, float]:
    """A load and the throughput of its link."""
    num_chunks = draw(st.integers(1, 6))
    num_tokens = draw(st.sampled_from((64, 512, 1536)))
    ratios = draw(st.lists(st.floats(1.1, 4.0), min_size=6, max_size=6))
    smallest = draw(st.integers(200, 200_000))
    chunks = []
    for index in range(num_chunks):
        size = smallest * draw(st.floats(0.7, 1.4))
        options = []
        for rank, (level, ratio) in enumerate(zip(LEVELS, [1.0, *ratios], strict=True)):
            size *= ratio
            options.append(Option(level, int(size), rank))
        chunks.append(ChunkState(index * num_tokens, (index + 1) * num_tokens, tuple(options)))
    rate = 10 ** draw(st.floats(5, 9))
    per_token = 10 ** draw(st.floats(-6, -3))
    curve = draw(st.sampled_from((0.0, 1e-4))) * per_token
    prefill = PrefillCost(draw(st.sampled_from((0.0, 0.02))), per_token, curve)
    decode = {level: DecodeCost(0.0, 10 ** draw(st.floats(-7, -5))) for level in LEVELS}
    costs = Costs(prefill, decode, draw(st.sampled_from((0.0, 0.002, 0.05))))
    return LoadState(chunks, costs, DEFAULT), rate


def plan_s(state: LoadState, rate: float, rank: int, split: int) -> float:
    """The end of a plan that never changes: recompute before the split, fetch behind it."""
    costs, model_s, link_s, decoder_s = state.costs, 0.0, 0.0, 0.0
    assert costs.prefill is not None
    for chunk in state.chunks[:split]:
        model_s += costs.prefill.seconds(chunk.num_tokens, past=chunk.start)
    for chunk in reversed(state.chunks[split:]):
        link_s = max(link_s, costs.request_s) + chunk.options[rank].size_bytes / rate
        decode_s = costs.decode_s(chunk.options[rank].level, chunk.num_tokens)
        decoder_s = max(decoder_s, link_s) + decode_s
    return max(model_s, decoder_s)


def best_s(state: LoadState, rate: float, ranks: Sequence[int]) -> float:
    splits = range(len(state.chunks) + 1)
    return min(plan_s(state, rate, rank, split) for rank in ranks for split in splits)


def alone_s(state: LoadState, rate: float) -> float:
    """The best of text alone and any one level of default quality or better."""
    text_s = plan_s(state, rate, 0, len(state.chunks))
    return min([text_s, *(plan_s(state, rate, rank, 0) for rank in range(DEFAULT, len(LEVELS)))])


@pytest.mark.parametrize("controller", CONTROLLERS, ids=lambda c: type(c).__name__)
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_every_load_ends(controller: Controller, data: st.DataObject):
    state, rate = data.draw(loads())
    pairs = [(i, level) for i in range(len(state.chunks)) for level in LEVELS]
    broken = data.draw(st.frozensets(st.sampled_from(pairs)))
    if data.draw(st.booleans()):
        broken |= {(data.draw(st.integers(0, len(state.chunks) - 1)), name) for name in LEVELS}
    if data.draw(st.booleans()):
        state.costs = Costs(None, state.costs.decode, state.costs.request_s)
    state.slo_s = data.draw(st.sampled_from((None, 0.01, 0.3, 5.0)))
    rates = data.draw(st.lists(st.tuples(st.floats(0.01, 1), st.floats(0.05, 20)), max_size=6))
    world = World(
        state,
        Watched(controller),
        [(seconds, share * rate) for seconds, share in rates] + [(1.0, rate)],
        broken,
        data.draw(st.booleans()),
    )
    world.run()
    assert all(chunk.status is Status.DONE for chunk in state.chunks)


@given(load=loads())
@settings(max_examples=60, deadline=None)
def test_min_ttft_is_nearly_the_best_of_all_plans(load: tuple[LoadState, float]):
    state, rate = load
    best = best_s(state, rate, range(DEFAULT, len(LEVELS)))
    trusting = MinTTFT(margins=SafetyMargins(model=1.0))
    ttft_s = World(state, trusting, [(1.0, rate)]).run()
    assert ttft_s <= 1.05 * best + state.costs.request_s + 1e-6
    assert all(chunk.level not in LEVELS[:DEFAULT] for chunk in state.chunks)


@given(load=loads())
@settings(max_examples=60, deadline=None)
def test_safety_margins_cost_no_more_than_they_are(load: tuple[LoadState, float]):
    state, rate = load
    best = best_s(state, rate, range(DEFAULT, len(LEVELS)))
    ttft_s = World(state, MinTTFT(), [(1.0, rate)]).run()
    assert ttft_s <= 1.05 * SafetyMargins().model * best + state.costs.request_s + 1e-6


@given(load=loads())
@settings(max_examples=60, deadline=None)
def test_min_ttft_is_no_worse_than_any_single_alternative(load: tuple[LoadState, float]):
    state, rate = load
    alone = alone_s(state, rate)
    assert World(state, MinTTFT(), [(1.0, rate)]).run() <= 1.05 * alone + 1e-6


@given(load=loads(), room=st.floats(1.25, 10.0))
@settings(max_examples=60, deadline=None)
def test_min_ttft_meets_deadlines_that_can_be_met(load: tuple[LoadState, float], room: float):
    state, rate = load
    best = best_s(state, rate, range(len(LEVELS)))
    state.slo_s = room * best + state.costs.request_s
    assert World(state, MinTTFT(), [(1.0, rate)]).run() <= state.slo_s + 1e-6
