"""Simulates loads that share a link, a model and a decoder, from event to event."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from cachegen.policy.link_estimate import LinkEstimate
from cachegen.simulation.loading import Loading, Machine
from cachegen.simulation.pipe import Pipe
from cachegen.simulation.scenario import Request, SimulatedLoad
from cachegen.simulation.station import Station
from cachegen.simulation.trace import Trace

# As the loader's (loading/run.py).
TICK_S = 0.01
# A day: only ends a simulation without end. Arbitrary: anything above the longest load does.
LIMIT_S = 86400.0


def simulate(
    request: Request,
    *,
    trace: Trace,
    start_s: float = 0.0,
    known_bytes_per_s: float | None = None,
    queue_bytes: int = 0,
    tick_s: float = TICK_S,
) -> SimulatedLoad:
    """Simulate one load with link, model and decoder to itself; see `simulate_many`."""
    return simulate_many(
        [request],
        trace=trace,
        start_s=start_s,
        known_bytes_per_s=known_bytes_per_s,
        queue_bytes=queue_bytes,
        tick_s=tick_s,
    )[0]


def simulate_many(
    requests: Sequence[Request],
    *,
    trace: Trace,
    start_s: float = 0.0,
    known_bytes_per_s: float | None = None,
    queue_bytes: int = 0,
    tick_s: float = TICK_S,
) -> list[SimulatedLoad]:
    """Simulate loads that share the link equally, and model and decoder one chunk at a time.

    As in the loader, a load takes the model only if it is free, and queues only for a chunk that it
    cannot load in any other way. Loads of which a job has just ended decide before the others.

    Args:
        requests: the loads.
        trace: the link's bandwidth over time.
        start_s: where in the trace the simulation begins.
        known_bytes_per_s: the link's throughput known from earlier; None if unknown.
        queue_bytes: bytes of an abandoned transfer that arrive all the same, before the next
            one's.
        tick_s: longest time between two decisions about transfers under way.

    Raises:
        ValueError: no tick or a negative queue, a decision that cannot be carried out, or a load
            that never ends.
    """
    if not tick_s > 0 or queue_bytes < 0:
        raise ValueError(
            f"expected tick_s above 0 and queue_bytes from 0 on, got {tick_s}, {queue_bytes}"
        )
    pipe: Pipe[Loading] = Pipe(trace.pieces(start_s), LinkEstimate(known_bytes_per_s))
    return World(requests, pipe, queue_bytes=queue_bytes, tick_s=tick_s).run()


class World:
    """The state of a simulation."""

    def __init__(
        self,
        requests: Sequence[Request],
        pipe: Pipe[Loading],
        *,
        queue_bytes: int,
        tick_s: float,
    ) -> None:
        """Start before the first load begins."""
        self._now_s = self._look_s = 0.0
        self._requests = requests
        self._coming = sorted(range(len(requests)), key=lambda i: -requests[i].arrival_s)
        self._active: dict[int, Loading] = {}
        self._results: dict[int, SimulatedLoad] = {}
        self._machine = Machine(pipe, Station(), Station(), queue_bytes)
        self._tick_s = tick_s

    def run(self) -> list[SimulatedLoad]:
        """Simulate until every load has ended, and return the loads in order."""
        pipe = self._machine.pipe
        while self._coming or self._active:
            began_s, self._now_s = self._now_s, self._next_s()
            complete = pipe.advance(began_s, self._now_s)
            for flow in complete:
                flow.owner.fetched(flow, self._now_s)
            served = self._finish_jobs()
            if self._begin_loads() or complete or served or self._now_s >= self._look_s:
                self._drive(served)
        return [self._results[index] for index in range(len(self._requests))]

    def _next_s(self) -> float:
        """Time of the next event."""
        machine = self._machine
        soonest = min(machine.model.ends_s, machine.decoder.ends_s)
        if self._coming:
            soonest = min(soonest, self._requests[self._coming[-1]].arrival_s)
        if machine.pipe.flows:
            soonest = min(soonest, self._look_s, machine.pipe.next_s(self._now_s))
        if not soonest < LIMIT_S:
            raise ValueError(f"a load does not end within {LIMIT_S:g} s: its controller waits")
        return soonest

    def _drive(self, first: Collection[Loading]) -> None:
        """Let all loads decide, those in ``first`` before the others."""
        loads = list(self._active.items())
        if len(loads) > 1:
            loads.sort(key=lambda item: item[1] not in first)
        for index, load in loads:
            load.drive(self._now_s, num_loads=len(self._active))
            if load.state.is_done:
                self._results[index] = load.result(self._now_s)
                del self._active[index]
        due_s = min((load.wants_a_look_s for load in self._active.values()), default=self._tick_s)
        self._look_s = self._now_s + min(self._tick_s, due_s)

    def _begin_loads(self) -> bool:
        num_coming = len(self._coming)
        while self._coming and self._requests[self._coming[-1]].arrival_s <= self._now_s:
            index = self._coming.pop()
            self._active[index] = Loading(self._requests[index], self._machine)
        return len(self._coming) < num_coming

    def _finish_jobs(self) -> list[Loading]:
        """End the jobs that are due, and return their loads."""
        served = []
        while (job := self._machine.decoder.finished(self._now_s)) is not None:
            job.owner.decoded(job.chunk)
            served.append(job.owner)
        while (job := self._machine.model.finished(self._now_s)) is not None:
            job.owner.recomputed(job.chunk)
            served.append(job.owner)
        return served
