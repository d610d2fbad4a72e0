"""One simulated load: its state, and the effects of its controller's decisions."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cachegen.codec.levels import TEXT
from cachegen.policy.controller import (
    MAX_UNDECODED,
    Decision,
    Status,
    TimedDecision,
    Transfer,
)
from cachegen.policy.replan_guard import ReplanGuard
from cachegen.policy.schedule import request_due_s
from cachegen.simulation.pipe import Flow, Pipe
from cachegen.simulation.scenario import Request, SimulatedLoad
from cachegen.simulation.station import Job, Station


@dataclass(frozen=True, slots=True)
class Machine:
    """What loads share.

    Attributes:
        pipe: the link.
        model: the station that recomputes.
        decoder: the station that decodes.
        queue_bytes: bytes of an abandoned transfer that arrive all the same.
    """

    pipe: Pipe[Loading]
    model: Station[Loading]
    decoder: Station[Loading]
    queue_bytes: int


class Loading:
    """A load that has begun. Times are in seconds on the simulation's clock."""

    def __init__(self, request: Request, machine: Machine) -> None:
        """Start with nothing loaded."""
        self.request = request
        self.state = request.state()
        self._machine = machine
        self._flows: dict[int, Flow[Loading]] = {}
        self._link_busy_since_s = 0.0
        self._replan_guard: ReplanGuard | None = None
        self._queued_bytes = 0.0
        self._undecoded = 0
        self._received = self._abandoned = 0
        self._fetch_s = self._decode_s = self._recompute_s = 0.0
        self._decisions: list[TimedDecision] = []

    def drive(self, now_s: float, *, num_loads: int) -> None:
        """Let the controller decide about transfers under way and idle resources.

        ``num_loads`` are under way, this one included.

        Raises:
            ValueError: a decision cannot be carried out, or a chunk cannot be loaded at all.
        """
        self._look(now_s, num_loads)
        self._reconsider(now_s)
        while self._link_is_idle and self._use_link(now_s):
            pass
        self._use_model(now_s)
        self._insist(now_s)

    @property
    def wants_a_look_s(self) -> float:
        """Seconds until the next request ahead is due."""
        return request_due_s(self.state) or math.inf

    def fetched(self, flow: Flow[Loading], now_s: float) -> None:
        """End a complete transfer, and hand the chunk to the decoder."""
        transfer = next(t for t in self.state.transfers if self._flows[t.chunk] is flow)
        chunk = self.state.chunks[transfer.chunk]
        self._end_transfer(transfer, transfer.option.size_bytes, now_s)
        chunk.status = Status.DECODING
        seconds = self.request.costs.decode_s(transfer.option.level, chunk.num_tokens)
        self._decode_s += seconds
        self._undecoded += 1
        self._machine.decoder.add(Job(self, transfer.chunk, seconds), now_s)

    def decoded(self, index: int) -> None:
        """Mark a decoded chunk as done."""
        self._undecoded -= 1
        self._finish(index)

    def recomputed(self, index: int) -> None:
        """Mark a recomputed chunk as done."""
        self.state.recompute_began_s = None
        self._finish(index)

    def result(self, now_s: float) -> SimulatedLoad:
        """The result, once every chunk is done."""
        return SimulatedLoad(
            arrival_s=self.request.arrival_s,
            ttft_s=now_s - self.request.arrival_s,
            slo_s=self.request.slo_s,
            levels=tuple(chunk.level or TEXT for chunk in self.state.chunks),
            received_bytes=self._received,
            abandoned_bytes=self._abandoned,
            fetch_s=self._fetch_s,
            decode_s=self._decode_s,
            recompute_s=self._recompute_s,
            decisions=tuple(self._decisions),
        )

    def _look(self, now_s: float, num_loads: int) -> None:
        state, machine = self.state, self._machine
        state.now_s = now_s - self.request.arrival_s
        for transfer in state.transfers:
            missing_bytes = self._flows[transfer.chunk].missing_bytes
            transfer.received_bytes = int(transfer.option.size_bytes - missing_bytes)
        estimate = machine.pipe.estimate.share(now_s, own=len(state.transfers))
        state.bytes_per_s, state.low_bytes_per_s = estimate
        state.model_share = num_loads
        state.decoder_share = 1 + len(machine.decoder) - self._undecoded
        began_s = machine.decoder.began_s(self)
        state.decode_began_s = None if began_s is None else began_s - self.request.arrival_s

    def _reconsider(self, now_s: float) -> None:
        if self.state.transfer is None:
            return
        decision = self.request.controller.reconsider(self.state)
        if decision is None or (decision.action == "recompute" and self._machine.model):
            return
        self._abandon(self.state.place_of(decision.chunk), now_s)
        self._carry_out(decision, now_s)

    @property
    def _link_is_idle(self) -> bool:
        return self._undecoded < MAX_UNDECODED and not request_due_s(self.state)

    def _use_link(self, now_s: float) -> bool:
        decision = self.request.controller.choose(self.state, "link")
        if decision is None:
            self._replan_guard = None
            return False
        self._carry_out(decision, now_s)
        return True

    def _use_model(self, now_s: float) -> None:
        """Let the controller use the model if it is free."""
        if not self.state.can_recompute or self._machine.model or not self._front_waits:
            return
        if self._replan_guard is not None and self._replan_guard.holds(self.state):
            return
        decision = self.request.controller.choose(self.state, "model")
        if decision is not None and decision.action == "recompute":
            self._carry_out(decision, now_s)
        else:
            self._replan_guard = ReplanGuard.of(self.state)

    def _insist(self, now_s: float) -> None:
        """If nothing is under way for the front chunk, load it in any way."""
        state = self.state
        if not self._front_waits:
            return
        options = state.chunks[state.front].options
        if options and (self._undecoded or state.transfer is not None):
            return
        if state.can_recompute:
            decision = Decision.recompute(state.front, "there is no other way")
        elif options:
            decision = Decision.fetch(state.front, options[-1].level, "there is no other way")
        else:
            raise ValueError(f"chunk {state.front} is not stored, and there is no model")
        self._carry_out(decision, now_s)

    @property
    def _front_waits(self) -> bool:
        state = self.state
        return not state.is_done and state.chunks[state.front].status is Status.WAITING

    def _carry_out(self, decision: Decision, now_s: float) -> None:
        self._decisions.append(TimedDecision(self.state.now_s, decision))
        if decision.action == "recompute":
            self._recompute(decision.chunk, now_s)
        else:
            self._fetch(decision.chunk, decision.level, now_s)

    def _fetch(self, index: int, level: str, now_s: float) -> None:
        chunk = self.state.chunks[index]
        option = chunk.option(level)
        if option is None or chunk.status is not Status.WAITING:
            raise ValueError(f"chunk {index}, {chunk.status}, cannot be fetched at {level!r}")
        chunk.status, chunk.level = Status.FETCHING, level
        if not self.state.transfers:
            self._link_busy_since_s = now_s
        self.state.transfers.append(Transfer(index, option, self.state.now_s))
        begins_s = now_s + self.request.costs.request_s
        flow = Flow(self, begins_s, self._queued_bytes, float(option.size_bytes))
        self._flows[index], self._queued_bytes = flow, 0.0
        self._machine.pipe.begin(flow, now_s)

    def _recompute(self, index: int, now_s: float) -> None:
        chunk, prefill = self.state.chunks[index], self.request.costs.prefill
        may = index == self.state.front and self.state.recompute_began_s is None
        if not may or prefill is None or chunk.status is not Status.WAITING:
            raise ValueError(f"chunk {index}, {chunk.status}, cannot be recomputed now")
        chunk.status, chunk.level = Status.RECOMPUTING, TEXT
        self.state.recompute_began_s = self.state.now_s
        seconds = prefill.seconds(chunk.num_tokens, past=chunk.start)
        self._recompute_s += seconds
        self._machine.model.add(Job(self, index, seconds), now_s)

    def _abandon(self, first: int, now_s: float) -> None:
        """Abandon the transfers from index ``first`` on."""
        given_up = self.state.transfers[first:]
        flows = [self._flows[transfer.chunk] for transfer in given_up]
        waiting_bytes = sum(flow.queued_bytes + flow.missing_bytes for flow in flows)
        self._queued_bytes = min(waiting_bytes, float(self._machine.queue_bytes))
        for transfer in given_up:
            self._abandoned += transfer.received_bytes
            self._end_transfer(transfer, transfer.received_bytes, now_s)
            chunk = self.state.chunks[transfer.chunk]
            chunk.status, chunk.level = Status.WAITING, None
        self._replan_guard = None

    def _end_transfer(self, transfer: Transfer, received_bytes: int, now_s: float) -> None:
        self._machine.pipe.end(self._flows.pop(transfer.chunk), now_s)
        self.state.transfers.remove(transfer)
        self._received += received_bytes
        if not self.state.transfers:
            self._fetch_s += now_s - self._link_busy_since_s

    def _finish(self, index: int) -> None:
        self.state.chunks[index].status = Status.DONE
        self.state.advance_front()
