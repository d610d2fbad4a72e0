"""When the link, the decoder and the model would end: the arithmetic that controllers share.

Times are seconds from now. Chunks "left" are those that wait, by position, in the order of the
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

UNKNOWN_S = 1e9
_OVERDUE = 0.1
_SOON_S = 5e-4
_LEAST_BYTES_PER_S = 1e-3


@dataclass(frozen=True, slots=True)
class Ends:
    """When each resource is done with what it has begun.

    Attributes:
        link_s: what has been asked for has arrived.
        decoder_s: everything fetched by then is decoded.
        model_s: the model can begin the next chunk.
    """

    link_s: float
    decoder_s: float
    model_s: float


@dataclass(frozen=True, slots=True)
class Outlook:
    """What plans are made from.

    Attributes:
        state: of the load.
        left: the chunks that wait.
        bytes_per_s: the throughput to plan with.
        free: when each resource is free.
        compute_s: to recompute each of those left.
    """

    state: LoadState
    left: Sequence[int]
    bytes_per_s: float
    free: Ends
    compute_s: Sequence[float]


@dataclass(frozen=True, slots=True)
class Plan:
    """Recompute the first of the chunks left, fetch the others, the last one first.

    Attributes:
        rank: quality they are fetched at.
        split: how many are recomputed.
        finish_s: when everything is there.
        fetched_s: when all that is fetched is decoded.
        computed_s: when all that is recomputed is there.
    """

    rank: int
    split: int
    finish_s: float
    fetched_s: float
    computed_s: float


def chunks_left(state: LoadState) -> list[int]:
    """The chunks that wait."""
    waits = Status.WAITING
    chunks = state.chunks
    return [i for i in range(state.front, len(chunks)) if chunks[i].status is waits]


def nearest(options: Sequence[Option], rank: int) -> Option:
    """The option of this rank, else the next better one, else the best there is."""
    for option in options:
        if option.rank >= rank:
            return option
    return options[-1]


def assumed_bytes_per_s(state: LoadState) -> float:
    """The throughput to plan with.

    Where nothing is known, a transfer is expected to take as long again as it has taken since its
    first byte was due: at first no time at all, then more and more.
    """
    if state.bytes_per_s is not None:
        return max(state.bytes_per_s, _LEAST_BYTES_PER_S)
    if state.transfer is None:
        return math.inf
    late_s = state.now_s - state.transfer.began_s - state.costs.request_s
    return state.transfer.option.size_bytes / late_s if late_s > 0 else math.inf


def recompute_s(state: LoadState, chunk: ChunkState) -> float:
    """Seconds to recompute a chunk; very long where that is impossible or not known."""
    prefill = state.costs.prefill
    if prefill is None or not state.can_recompute:
        return UNKNOWN_S
    start, stop = chunk.start, chunk.stop
    per_token_s = prefill.b_s + prefill.c_s * (start + stop)
    return state.model_share * (prefill.a_s + (stop - start) * per_token_s)


def decode_s(state: LoadState, chunk: ChunkState, level: str) -> float:
    """Seconds to decode a chunk."""
    cost = state.costs.decode.get(level)
    if cost is None:
        return 0.0
    return state.decoder_share * (cost.a_s + cost.b_s * (chunk.stop - chunk.start))


def arrival_s(state: LoadState, bytes_per_s: float) -> float:
    """Seconds until the first transfer under way has arrived; 0 where there is none."""
    transfer = state.transfer
    if transfer is None:
        return 0.0
    return _first_byte_s(state, transfer) + transfer.missing_bytes / bytes_per_s


def request_due_s(state: LoadState) -> float:
    """Seconds until the next request's first byte would come as the link gets free.

    0 where that is now or later than needed; infinite where enough has been asked for ahead, and,
    while the throughput is unknown, as long as anything is under way.
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
    """When what is under way will be over."""
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
    """When the first byte comes; 0 where it has come."""
    if transfer.received_bytes:
        return 0.0
    return max(transfer.began_s + state.costs.request_s - state.now_s, 0.0)


def _decoder_free_s(state: LoadState) -> float:
    """When everything that has arrived is decoded."""
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
    """When the model is idle and what it needs first is there."""
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
    """The outlook at a throughput."""
    compute_s = [recompute_s(state, state.chunks[index]) for index in left]
    return Outlook(state, left, bytes_per_s, ends(state, bytes_per_s), compute_s)


def best_plan(outlook: Outlook, rank: int, *, within_s: float = math.inf) -> Plan:
    """The split with the earliest end at this quality; on a tie the one that fetches more.

    The first byte of a chunk comes after the last one of the chunk before, and no earlier than a
    request takes that is sent as soon as there are few enough. Chunks without options are
    recomputed once all others are there. The search ends early where nothing can end within
    ``within_s`` any more.
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
    """When the next fetch would have arrived at this option: no plan that fetches ends before."""
    begins_s = max(outlook.free.link_s, outlook.state.costs.request_s)
    return begins_s + option.size_bytes / outlook.bytes_per_s


def earliest_plan(outlook: Outlook, options: Sequence[Option]) -> Plan:
    """The earliest end over the qualities of these options; on a tie the smallest.

    The options are of the chunk to be fetched next.
    """
    best = best_plan(outlook, options[0].rank)
    for option in options[1:]:
        if first_arrival_s(outlook, option) >= best.finish_s:
            continue
        plan = best_plan(outlook, option.rank, within_s=best.finish_s)
        if plan.finish_s < best.finish_s:
            best = plan
    return best
