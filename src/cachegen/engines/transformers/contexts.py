"""Contexts of Hugging Face models: prefilled and stored once, loaded anywhere for `generate`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import Cache, PreTrainedModel

from cachegen.bitstream.manifest import Manifest
from cachegen.codec.levels import LOSSLESS, TEXT
from cachegen.codec.profile import Profile, shipped_profile
from cachegen.contexts.chunking import check_chunk_tokens, plan_levels
from cachegen.contexts.save import save
from cachegen.engines.transformers.cache import capture
from cachegen.engines.transformers.costs import timed_capture
from cachegen.engines.transformers.identity.fingerprint import fingerprint
from cachegen.engines.transformers.inputs import (
    Tokens,
    check_encoding,
    check_positions,
    check_vocabulary,
    token_ids,
)
from cachegen.engines.transformers.layers import can_fill, fill, new_cache, windows_of
from cachegen.engines.transformers.media import (
    capture_with_media,
    check_media,
    media_stop,
    whole_media,
)
from cachegen.engines.transformers.probe import Support, is_probed, support_of
from cachegen.engines.transformers.regime import Regime, regime_of
from cachegen.engines.transformers.rope import rope_map
from cachegen.kvcache import KVCache
from cachegen.loading.load import Reader, load
from cachegen.loading.model import Recompute
from cachegen.loading.resources import measurements_of
from cachegen.loading.result import LoadResult
from cachegen.policy.controller import Controller
from cachegen.store import Store, shared_store
from cachegen.store.shared import StoreOrUrl


@dataclass(frozen=True, slots=True, eq=False)
class LoadedContext:
    """What `load_context` found of a text.

    Attributes:
        cache: for `model.generate(tokens, past_key_values=cache)`; generation changes it.
        num_tokens: tokens in the cache, always fewer than the text has.
        result: where they came from, what they cost.
    """

    cache: Cache
    num_tokens: int
    result: LoadResult


def save_context(
    model: PreTrainedModel,
    tokens: Tokens,
    *,
    store: StoreOrUrl,
    profile: Profile | None = None,
    levels: Sequence[str] | None = None,
    chunk_tokens: int = 1536,
    attention_mask: Any = None,
    inputs: Mapping[str, Any] | None = None,
    extra: bytes = b"",
    salt: bytes = b"",
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Prefill a context and store its cache.

    What is stored of it already, losslessly, is loaded and only the rest is prefilled.

    Args:
        model: in eval mode, on any devices.
        tokens: the whole context: ids, or what a tokenizer or chat template returned.
        store: a store, or the URL or directory of one.
        profile: the model's; by default the one that comes with the package, if there is one.
        levels: names; by default all of the profile's and `lossless`.
        chunk_tokens: tokens of a chunk, a multiple of 64; by default the length of the contexts
            that profiles learn from.
        attention_mask: all ones, as many as tokens, which is what is assumed without it: nothing
            of a context is masked, pad tokens neither. Pass the same to `generate`.
        inputs: what the model takes beside tokens, as its processor made it: ``pixel_values``.
        extra: whatever else changes the keys and values of equal tokens: a digest of the image,
            or of a change to the model that `fingerprint` does not see.
        salt: the tenant, who sees only what was saved with the same salt.
        progress: called with (objects done, objects altogether).

    Raises:
        UnsupportedCache: keys and values of tokens are not all that the model keeps of a text, or
            depend on more than the tokens before them. A few tokens tell, before any work.
        ValueError: tokens that are no ids, a mask with zeros, a model in training mode, an image
            without `inputs` and `extra`.
        StoreError: the store fails.
    """
    ids = token_ids(tokens, attention_mask)
    _check(model, ids, salt=salt, extra=extra)
    check_encoding(model, tokens, extra=extra, inputs=inputs, is_saved=True)
    check_media(model, ids, extra=extra, inputs=inputs, is_saved=True)
    check_chunk_tokens(chunk_tokens)
    kind = _identify(model, ids, salt=salt, extra=extra)
    profile = profile or shipped_profile(kind.fingerprint)
    plan_levels(profile, levels, exact=True)
    opened = shared_store(store, create=True)
    kv = _prefilled(model, ids, inputs, store=opened, kind=kind)
    _check_unchanged(model, kind.fingerprint)
    return save(
        kv,
        tokens=ids,
        store=opened,
        profile=profile,
        rope=None if profile else rope_map(model),
        levels=levels,
        chunk_tokens=chunk_tokens,
        windows=windows_of(model),
        fingerprint=kind.fingerprint,
        salt=salt,
        extra=kind.extra,
        progress=progress,
    )


def load_context(
    model: PreTrainedModel,
    tokens: Tokens,
    *,
    store: StoreOrUrl,
    profile: Profile | None = None,
    level: str | None = None,
    slo_s: float | None = None,
    controller: Controller | None = None,
    attention_mask: Any = None,
    extra: bytes = b"",
    salt: bytes = b"",
    max_bytes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    cancel: threading.Event | None = None,
) -> LoadedContext:
    """Load the cache of as much of a text as is stored, from its first token on.

    Pass the whole text and the cache to `model.generate`, which prefills what is missing; at
    least the last token is left to it. Chunks are fetched, or recomputed where that is sooner or
    they cannot be fetched; of a text with images they are fetched only.

    Args:
        model: the one that the context was saved with.
        tokens: the text: a stored context, or a longer one that begins like it.
        store: a store, or the URL or directory of one.
        profile: the model's; by default the one that comes with the package or the store.
        level: name of the level to load; when None, whatever ends soonest at the quality of the
            profile's default level or better.
        slo_s: deadline in seconds: the best quality that meets it, the earliest end where none
            can.
        controller: chooses for every chunk in place of all that.
        attention_mask: as for `save_context`.
        extra: as it was saved.
        salt: the tenant, as it was saved.
        max_bytes: of memory that the load may take, as for `cachegen.loading.load.load`; by
            default half of this machine's, or all of the device's if that is more.
        progress: called with (tokens there, tokens altogether), from another thread.
        cancel: set it to end the load.

    Raises:
        UnsupportedCache: as `save_context`.
        ValueError: as `save_context`; a level that nothing is stored at, or a level and a
            controller.
        StoreError: there is no such folder; for a text with images, the store fails.
        LoadCancelled: `cancel` was set.
    """
    ids = token_ids(tokens, attention_mask)
    opened = shared_store(store, create=False)
    _check(model, ids, salt=salt, extra=extra)
    check_encoding(model, tokens, extra=extra)
    check_media(model, ids, extra=extra)
    kind = _identify(model, ids, salt=salt, extra=extra)
    result = load(
        ids,
        store=opened,
        profile=profile or shipped_profile(kind.fingerprint),
        level=level,
        slo_s=slo_s,
        controller=controller,
        recompute=None if media_stop(model, ids) else _recompute(model, ids, kind.regime),
        fingerprint=kind.fingerprint,
        salt=salt,
        extra=kind.extra,
        reader=Reader(kind.support.device, partial(_last_usable, model, ids)),
        max_bytes=max_bytes,
        progress=progress,
        cancel=cancel,
    )
    if any(chunk.level == TEXT for chunk in result.chunks):
        _check_unchanged(model, kind.fingerprint)
    kv, cache = _usable(result.kv, model, ids), new_cache(model)
    if kv is None:
        return LoadedContext(cache, 0, result)
    fill(cache, kv, kind.support.layers)
    return LoadedContext(cache, kv.num_tokens, result)


@dataclass(frozen=True, slots=True)
class _Kind:
    """What two caches of equal tokens must share to be the same.

    Attributes:
        fingerprint: the model.
        salt: the tenant.
        extra: what else the caller tells apart, and the regime.
        regime: frequencies by the length of the text.
        support: where the model takes and keeps tokens.
    """

    fingerprint: bytes
    salt: bytes
    extra: bytes
    regime: Regime
    support: Support


def _check(model: PreTrainedModel, ids: tuple[int, ...], *, salt: bytes, extra: bytes) -> None:
    """Refuse what cannot be stored before the model's weights are read."""
    for name, value in (("salt", salt), ("extra", extra)):
        if not isinstance(value, bytes):
            raise TypeError(f"expected bytes as `{name}`, got {type(value).__name__}: {value!r}")
    if not ids:
        raise ValueError("expected at least one token, got none")
    if not is_probed(model):
        support_of(model)
    check_vocabulary(ids, model)
    check_positions(model, ids)


def _check_unchanged(model: PreTrainedModel, expected: bytes) -> None:
    """Refuse what was computed while somebody switched adapters, or wrote to weights.

    Raises:
        ValueError: the model is not what it was.
    """
    if fingerprint(model) != expected:
        raise ValueError(
            "the model changed while it prefilled (an adapter was switched, or weights written "
            "to): expected it to stay as it is; nothing of this was stored or given, try again"
        )


def _identify(model: PreTrainedModel, ids: tuple[int, ...], *, salt: bytes, extra: bytes) -> _Kind:
    regime = regime_of(model, len(ids))
    known = fingerprint(model)
    support = support_of(model, fingerprint=known)
    return _Kind(known, salt, regime.extra(extra), regime, support)


def _recompute(model: PreTrainedModel, ids: tuple[int, ...], regime: Regime) -> Recompute:
    """Recomputes a part of a text as it is in the whole of it."""

    def recompute(tokens: Sequence[int], *, past: KVCache | None) -> KVCache:
        start = past.num_tokens if past else 0
        reach = regime.reach(start + len(tokens))
        whole = capture(model, ids[start:reach], past=past, regime=regime)
        return whole.slice(0, len(tokens))

    return recompute


def _prefilled(
    model: PreTrainedModel,
    ids: tuple[int, ...],
    inputs: Mapping[str, Any] | None,
    *,
    store: Store,
    kind: _Kind,
) -> KVCache:
    """The cache of a context; what is stored of it losslessly is not computed again."""
    device = kind.support.device
    past = _exact_prefix(ids, store=store, kind=kind, device=device)
    if past is not None and past.num_tokens == len(ids):
        return past
    if inputs and media_stop(model, ids) > (past.num_tokens if past else 0):
        return capture_with_media(model, ids, inputs)
    start, known = past.num_tokens if past else 0, measurements_of(kind.fingerprint, str(device))
    computed = timed_capture(model, ids[start:], past=past, known=known, regime=kind.regime)
    known.save()
    return computed if past is None else KVCache.concat([past, computed])


def _exact_prefix(
    ids: tuple[int, ...], *, store: Store, kind: _Kind, device: torch.device
) -> KVCache | None:
    try:
        found = load(
            ids,
            store=store,
            level=LOSSLESS,
            fingerprint=kind.fingerprint,
            salt=kind.salt,
            extra=kind.extra,
            reader=Reader(device, complete=True),
        )
    except ValueError:  # what is stored has no lossless level
        return None
    usable = found.kv is not None and found.kv.is_complete and found.exact
    return found.kv if usable else None


def _usable(kv: KVCache | None, model: PreTrainedModel, ids: tuple[int, ...]) -> KVCache | None:
    """The cache without the text's last token, and no part of an image; None if nothing is left.

    A snapshot of a finished cache cannot be shortened: its windows end with its last token.
    """
    num_tokens = _last_usable(model, ids, kv.num_tokens) if kv is not None else 0
    if kv is None or not num_tokens:
        return None
    usable = kv.slice(0, num_tokens)
    return usable if can_fill(new_cache(model), usable) else None


def _last_usable(model: PreTrainedModel, ids: tuple[int, ...], num_tokens: int) -> int:
    """Where `generate` goes on of so many loaded tokens."""
    return whole_media(model, ids, min(num_tokens, len(ids) - 1))
