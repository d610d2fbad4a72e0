"""Predicted end times of link, decoder and model, shared by controllers.

Times are seconds from now. ``left`` are the indices of the waiting chunks, in the order of the
context.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cachegen.policy.controller import (
    MAX_TRANSFERS,
    ChunkState,
    LoadState,
    Option,
    Status,
    Transfer,
)

# 32 years: above any real time, and finite, so that sums of it can be compared.
UNKNOWN_S = 1e9
# Share of its time that overdue work is expected to take yet. Arbitrary: 0.01 to 0.5 end alike
# (200 simulated loads on links of simulation/varying.py, by hand).
_OVERDUE = 0.1
# Time short enough to request now instead of waking up again. Arbitrary: 0.1 to 5 ms end alike.
_SOON_S = 5e-4
# Only keeps divisions finite: a megabyte then takes `UNKNOWN_S`. Arbitrary: any rate below 1 does.
_LEAST_BYTES_PER_S = 1e-3


@dataclass(frozen=True, slots=True)
class Ends:
    """When each resource has ended the work it has begun.

    Attributes:
        link_s: all transfers under way have arrived.
        decoder_s: everything fetched by then is decoded.
        model_s: the model can begin the next chunk.
    """

    link_s: float
    decoder_s: float
    model_s: float


@dataclass(frozen=True, slots=True)
class Outlook:
    """The inputs of a plan.

    Attributes:
        state: the load.
        left: indices of the waiting chunks.
        bytes_per_s: the throughput to plan with.
        free: when each resource is free.
        compute_s: seconds to recompute each chunk in `left`.
    """

    state: LoadState
    left: Sequence[int]
    bytes_per_s: float
    free: Ends
    compute_s: Sequence[float]


@dataclass(frozen=True, slots=True)
class Plan:
    """Recompute the first of the waiting chunks, fetch the others, the last one first.

    Attributes:
        rank: rank of the level to fetch at.
        split: how many chunks are recomputed.
        finish_s: when all chunks are done.
        fetched_s: when all fetched chunks are decoded.
        computed_s: when all recomputed chunks are done.
    """

    rank: int
    split: int
    finish_s: float
    fetched_s: float
    computed_s: float


def chunks_left(state: LoadState) -> list[int]:
    """Indices of the waiting chunks."""
    waits = Status.WAITING
    chunks = state.chunks
    return [i for i in range(state.front, len(chunks)) if chunks[i].status is waits]


def nearest(options: Sequence[Option], rank: int) -> Option:
    """The option of this rank, else the next better one, else the best."""
    for option in options:
        if option.rank >= rank:
            return option
    return options[-1]


def assumed_bytes_per_s(state: LoadState) -> float:
    """The throughput to plan with.

    While it is unknown, the first transfer is assumed to take as long again as has passed since its
    first byte was due: the throughput is infinite at first, then ever less.
    """
    if state.bytes_per_s is not None:
        return max(state.bytes_per_s, _LEAST_BYTES_PER_S)
    if state.transfer is None:
        return math.inf
    late_s = state.now_s - state.transfer.began_s - state.costs.request_s
    return state.transfer.option.size_bytes / late_s if late_s > 0 else math.inf


def recompute_s(state: LoadState, chunk: ChunkState) -> float:
    """Seconds to recompute a chunk; `UNKNOWN_S` if that is impossible or unknown."""
    prefill = state.costs.prefill
    if prefill is None or not state.can_recompute:
        return UNKNOWN_S
    start, stop = chunk.start, chunk.stop
    per_token_s = prefill.b_s + prefill.c_s * (start + stop)
    return state.model_share * (prefill.a_s + (stop - start) * per_token_s)


def decode_s(state: LoadState, chunk: ChunkState, level: str) -> float:
    """Seconds to decode a chunk at a level, with the decoder shared."""
    cost = state.costs.decode.get(level)
    if cost is None:
        return 0.0
    return state.decoder_share * (cost.a_s + cost.b_s * (chunk.stop - chunk.start))


def arrival_s(state: LoadState, bytes_per_s: float) -> float:
    """Seconds until the first transfer under way has arrived; 0 if there is none."""
    transfer = state.transfer
    if transfer is None:
        return 0.0
    return _first_byte_s(state, transfer) + transfer.missing_bytes / bytes_per_s


def request_due_s(state: LoadState) -> float:
    """Seconds until the next request is due, so that its first byte comes as the link gets free.

    0 if it is due or overdue; infinite if enough is requested ahead, or if a transfer is under way
    and the throughput is unknown.
    """
    if not state.transfers:
        return 0.0
    if len(state.transfers) == MAX_TRANSFERS or state.bytes_per_s is None:
        return math.inf
    missing_bytes = 0
    for transfer in state.transfers:
        missing_bytes += transfer.missing_bytes
    arrives_s = missing_bytes / assumed_bytes_per_s(state)
    early_s = _first_byte_s(state, state.transfers[0]) + arrives_s - state.costs.request_s
    return early_s if early_s > _SOON_S else 0.0


def ends(state: LoadState, bytes_per_s: float) -> Ends:
    """When the work under way ends at this throughput."""
    link_s, decoder_s = 0.0, _decoder_free_s(state)
    model_s = _model_free_s(state, decoder_s)
    for transfer in state.transfers:
        chunk = state.chunks[transfer.chunk]
        link_s = max(link_s, _first_byte_s(state, transfer)) + transfer.missing_bytes / bytes_per_s
        decoder_s = max(decoder_s, link_s) + decode_s(state, chunk, transfer.option.level)
        if transfer.chunk == state.front:
            model_s = decoder_s
    return Ends(link_s, decoder_s, model_s)


def _first_byte_s(state: LoadState, transfer: Transfer) -> float:
    """Seconds until a transfer's first byte; 0 if it has come."""
    if transfer.received_bytes:
        return 0.0
    return max(transfer.began_s + state.costs.request_s - state.now_s, 0.0)


def _decoder_free_s(state: LoadState) -> float:
    """Seconds until everything that has arrived is decoded."""
    lasts_s = [
        decode_s(state, chunk, chunk.level or "")
        for chunk in state.chunks
        if chunk.status is Status.DECODING
    ]
    if not lasts_s:
        return 0.0
    began_s = state.now_s if state.decode_began_s is None else state.decode_began_s
    return max(began_s + sum(lasts_s) - state.now_s, _OVERDUE * min(lasts_s))


def _model_free_s(state: LoadState, decoder_s: float) -> float:
    """Seconds until the model is idle and the chunks before its next one are done."""
    front = state.chunks[state.front]
    if front.status is Status.DECODING:
        return decoder_s
    if state.recompute_began_s is None:
        return 0.0
    lasts_s = recompute_s(state, front)
    if lasts_s >= UNKNOWN_S:
        return 0.0
    return max(state.recompute_began_s + lasts_s - state.now_s, _OVERDUE * lasts_s)


def look(state: LoadState, left: Sequence[int], bytes_per_s: float) -> Outlook:
    """The outlook for waiting chunks at a throughput."""
    compute_s = [recompute_s(state, state.chunks[index]) for index in left]
    return Outlook(state, left, bytes_per_s, ends(state, bytes_per_s), compute_s)


def best_plan(outlook: Outlook, rank: int, *, within_s: float = math.inf) -> Plan:
    """The split that ends first at this rank; on a tie the one that fetches more.

    A chunk's first byte comes after the last byte of the chunk before, and no earlier than its
    request takes, which is sent once fewer than `MAX_TRANSFERS` are under way. Chunks without
    options are recomputed after all others. The search stops once no split can end within
    ``within_s``.
    """
    state, left, compute_s = outlook.state, outlook.left, outlook.compute_s
    request_s, bytes_per_s = state.costs.request_s, outlook.bytes_per_s
    link_s, fetched_s = outlook.free.link_s, outlook.free.decoder_s
    computed_s, tail_s = outlook.free.model_s + sum(compute_s), 0.0
    arrived: list[float] = []
    best = (max(computed_s, fetched_s), len(left), fetched_s, computed_s)
    for split in range(len(left) - 1, -1, -1):
        chunk = state.chunks[left[split]]
        computed_s -= compute_s[split]
        if chunk.options:
            option = nearest(chunk.options, rank)
            asked_s = arrived[-MAX_TRANSFERS] if len(arrived) >= MAX_TRANSFERS else 0.0
            link_s = max(link_s, asked_s + request_s) + option.size_bytes / bytes_per_s
            arrived.append(link_s)
            fetched_s = max(fetched_s, link_s) + decode_s(state, chunk, option.level)
        else:
            tail_s += compute_s[split]
        finish_s = max(fetched_s, computed_s if split else outlook.free.model_s) + tail_s
        if finish_s <= best[0]:
            best = (finish_s, split, fetched_s, computed_s + tail_s)
        if fetched_s >= computed_s or link_s >= within_s:
            break
    finish_s, split, fetched_s, computed_s = best
    return Plan(rank, split, finish_s, fetched_s, computed_s)


def first_arrival_s(outlook: Outlook, option: Option) -> float:
    """When the next fetch arrives at this option: no plan that fetches ends before."""
    begins_s = max(outlook.free.link_s, outlook.state.costs.request_s)
    return begins_s + option.size_bytes / outlook.bytes_per_s


def earliest_plan(outlook: Outlook, options: Sequence[Option]) -> Plan:
    """The plan that ends first over the ranks of these options; on a tie the lowest.

    The options are those of the chunk to fetch next.
    """
    best = best_plan(outlook, options[0].rank)
    for option in options[1:]:
        if first_arrival_s(outlook, option) >= best.finish_s:
            continue
        plan = best_plan(outlook, option.rank, within_s=best.finish_s)
        if plan.finish_s < best.finish_s:
            best = plan
    return best
