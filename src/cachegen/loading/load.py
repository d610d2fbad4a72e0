"""`load`: loads the longest stored prefix of a context, by fetching, decoding, recomputing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Unpack

import torch

from cachegen.bitstream.identity import (
    Identity,
    PrefixKey,
    Tokens,
    tokens_from_bytes,
    tokens_to_bytes,
)
from cachegen.codec.levels import EXACT_LEVELS, TEXT
from cachegen.codec.profile import Profile
from cachegen.contexts.forking import survive_forks
from cachegen.contexts.lookup import Found, Stored, found_in, look_up
from cachegen.contexts.needs import Cut, Needs, begin
from cachegen.contexts.objects import Profiles, describe_failure
from cachegen.contexts.time_limit import within
from cachegen.errors import StoreError, StoreTimeout
from cachegen.loading.decoding import Assembly, Decoder
from cachegen.loading.ledger import Journal
from cachegen.loading.model import Recompute
from cachegen.loading.resources import load_resources
from cachegen.loading.result import LoadResult, Span
from cachegen.loading.run import Progress, Run
from cachegen.policy.controller import Controller, LoadState
from cachegen.policy.fixed import Fixed
from cachegen.policy.link_estimate import LinkEstimate
from cachegen.policy.min_ttft import MinTTFT
from cachegen.store import Store


@dataclass(frozen=True, slots=True)
class Reader:
    """Who continues from a loaded cache.

    Attributes:
        device: where the cache is to be.
        cut: ``cut(num_tokens)`` is the position, at most ``num_tokens``, at which the reader
            continues; windows reach back from there. None for ``num_tokens``.
        complete: whether every token of layers with windows is needed too.
        start: the reader has all tokens before this one: chunks that end there or earlier are not
            loaded. For readers with an `assembly`, and without `recompute`.
        assembly: ``assembly(num_tokens, num_layers)`` takes the planes as they are decoded, in
            place of a cache in memory; the number of layers is None if it is not known. The
            result's cache is what its `kv` returns.
    """

    device: torch.device | str = "cpu"
    cut: Cut | None = None
    complete: bool = False
    start: int = 0
    assembly: Callable[[int, int | None], Assembly] = Assembly


def load(
    tokens: Tokens,
    *,
    store: Store,
    profile: Profile | None = None,
    profiles: Profiles | None = None,
    level: str | None = None,
    slo_s: float | None = None,
    controller: Controller | None = None,
    recompute: Recompute | None = None,
    reader: Reader = Reader(),
    stall_s: float = 3.0,  # outlasts one lost SYN (1 s, RFC 6298). Arbitrary: 2 to 30 s does
    max_bytes: int | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
    **identity: Unpack[Identity],
) -> LoadResult:
    """Load the cache of as many of these tokens as are stored, from the first one on.

    While one chunk is fetched another is decoded and a third may be recomputed; the controller
    decides which. A chunk that fails is requested again, then at another level, then recomputed;
    if it cannot be recomputed the result ends before it. The result's chunks tell the errors, its
    decisions what was done and why.

    Of layers with windows, as given to `save`, only the tokens that continuing needs are loaded: in
    the result they hold their last tokens, all other layers hold all.

    Args:
        tokens: the context, possibly longer than what is stored.
        store: the store to read from.
        profile: statistics of the model; if another one is needed it is read from the store.
        profiles: those that earlier loads from this store have read, in place of `profile`.
        level: load everything at this level, or as near to it as possible. If None the controller
            chooses: without a deadline, the quality of the profile's default level or better.
        slo_s: deadline in seconds from now: the best quality that meets it, or what ends first if
            none does.
        controller: decides; by default `Fixed(level)` if a level is given, else `MinTTFT()`.
        recompute: the engine's prefill of a token range. It is called in the calling thread.
        reader: who continues from the result: on which device, at which position.
        stall_s: seconds of silence after which a transfer fails; twice as long for the lookup, but
            no longer than half of ``slo_s`` if there is a model. A transfer of less than a kilobyte
            a second fails too, after twice as long.
        max_bytes: of the result, of what is fetched for it and of what decoding takes, at once. By
            default half of this machine's memory, or all of the device's if that is more. What
            would take more, whatever the store claims, is recomputed, or the result ends before it.
        progress: called with (tokens loaded, tokens in total), from another thread; an exception
            in it ends the load.
        cancel: an event that ends the load when set, from any thread.
        **identity: ``fingerprint``, ``salt`` and ``extra`` as the context was saved (see
            `Identity`); ``exact=False`` to accept also KV that was computed on top of lossily
            loaded KV.

    Raises:
        ValueError: no tokens, a level at which nothing is stored, both level and controller, no
            room, or a recomputed cache that does not fit.
        StoreError: the lookup fails, and there is no `recompute`.
        LoadCancelled: `cancel` was set.
    """
    survive_forks()
    asked = tokens_from_bytes(tokens_to_bytes(tokens))
    if not len(asked):
        raise ValueError("expected at least one token, got none")
    if slo_s is not None and not slo_s >= 0:
        raise ValueError(f"expected slo_s as seconds from now, at least 0, got {slo_s}")
    if level is not None and controller is not None:
        raise ValueError("expected a level or a controller, got both")
    prefix_key = PrefixKey(**identity)
    fingerprint = prefix_key.fingerprint
    resources = load_resources(
        store, fingerprint, device=reader.device, stall_s=stall_s, max_bytes=max_bytes
    )
    room, journal = resources.room, Journal()
    profiles = profiles or Profiles(store, profile, max_bytes=room.profiles_bytes)
    ask = partial(look_up, asked, prefix_key, store=store, profiles=profiles)
    try:
        patience_s = _patience_s(resources.link, stall_s, slo_s) if recompute else 2 * stall_s
        found = found_in(_answer(ask, resources.link, patience_s, cancel), profiles, level)
    except StoreError as error:
        if recompute is None:
            raise
        found = Found.nothing(len(asked), describe_failure(error))
    found = room.affordable(found.with_lost() if recompute is not None else found)
    for index, reason in found.errors:
        journal.error(index, reason)
    journal.spans.append(Span("lookup", 0.0, journal.now_s()))
    assembly = reader.assembly(found.num_tokens, len(found.windows) or None)
    needs = Needs(
        found.chunks,
        found.entries,
        windows=found.windows,
        cut=reader.cut,
        complete=reader.complete,
    )
    for index, chunk in enumerate(found.chunks):
        if chunk.stop <= reader.start:
            needs.got(index)
    begin(needs, found.chunks, can_recompute=recompute is not None)
    state = LoadState(
        chunks=list(found.chunks),
        costs=resources.measurements.costs(store.url),
        default_rank=found.default_rank,
        can_recompute=recompute is not None,
        slo_s=slo_s,
    )
    run = Run(
        state,
        needs,
        controller or (MinTTFT() if level is None else Fixed(level)),
        decoder=Decoder(
            asked[: found.num_tokens],
            found.tail,
            profiles,
            fingerprint,
            found.windows,
            assembly,
            reader.device,
            room.decoding_bytes,
        ),
        recompute=recompute,
        resources=resources,
        journal=journal,
        progress=progress,
        cancel=cancel,
    )
    run.work()
    chunks, num_tokens = run.chunks(), state.chunks[-1].stop if state.chunks else 0
    spans = journal.in_order()
    result = LoadResult(
        kv=assembly.kv(num_tokens, last=needs.last_at_end()),
        num_tokens=num_tokens,
        exact=found.exact and all(c.level in (*EXACT_LEVELS, TEXT, None) for c in chunks),
        ttft_s=journal.now_s(),
        size_bytes=sum(span.size_bytes for span in spans),
        chunks=(*chunks, *found.lost),
        decisions=tuple(journal.decisions),
        spans=spans,
    )
    threading.Thread(target=resources.remember).start()
    return result


def _patience_s(link: LinkEstimate, stall_s: float, slo_s: float | None) -> float:
    """Seconds to wait for the lookup if a model could begin instead: at most half of the deadline,
    and less after a recent silence. Arbitrary shares: what is waited is lost to the model."""
    patience_s = 2 * stall_s
    if slo_s is not None:
        patience_s = min(patience_s, slo_s / 2)
    if link.was_silent(time.monotonic()):
        patience_s = min(patience_s, stall_s / 4)
    return patience_s


def _answer(
    ask: Callable[[], Stored], link: LinkEstimate, patience_s: float, cancel: threading.Event | None
) -> Stored:
    """The store's answer within a time limit; the link notes whether there was one."""
    try:
        stored = within(patience_s, ask, cancel=cancel)
    except StoreTimeout:
        link.went_silent(time.monotonic())
        raise
    link.went_silent(None)
    return stored
