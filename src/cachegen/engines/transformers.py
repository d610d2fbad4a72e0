"""Contexts of Hugging Face models: prefilled and stored once, loaded anywhere for `generate`."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from transformers import Cache, PreTrainedModel

from cachegen.bitstream.manifest import Manifest
from cachegen.codec.levels import LOSSLESS
from cachegen.codec.profile import Profile, shipped_profile
from cachegen.engines.hf_cache import (
    Tokens,
    capture,
    from_cache,
    new_cache,
    to_cache,
    token_ids,
)
from cachegen.engines.hf_costs import measure_prefill, timed_capture
from cachegen.engines.hf_fingerprint import fingerprint
from cachegen.engines.hf_learning import samples, token_features
from cachegen.engines.hf_quality import Window, answer_window, cut_windows, evaluator
from cachegen.engines.hf_rope import rope_map
from cachegen.engines.hf_tasks import (
    Task,
    answers_right,
    first_tokens,
    task_from_text,
    task_text,
)
from cachegen.kvcache import KVCache
from cachegen.store import Store, open_store
from cachegen.stream import LoadResult, load, save
from cachegen.stream.controller import Controller
from cachegen.stream.sharing import measurements_of

__all__ = [
    "LoadedContext",
    "Task",
    "Window",
    "answer_window",
    "answers_right",
    "capture",
    "cut_windows",
    "evaluator",
    "fingerprint",
    "first_tokens",
    "from_cache",
    "load_context",
    "measure_prefill",
    "rope_map",
    "samples",
    "save_context",
    "task_from_text",
    "task_text",
    "to_cache",
    "token_features",
]

StoreOrUrl = Store | str | os.PathLike[str]


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
    salt: bytes = b"",
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Prefill a context and store its cache.

    What is stored of it already, losslessly, is loaded and only the rest is prefilled.

    Args:
        model: in eval mode.
        tokens: the whole context.
        store: a store, or the URL or directory of one.
        profile: the model's; by default the one that comes with the package, if there is one.
        levels: names; by default all of the profile's and `lossless`.
        chunk_tokens: tokens of a chunk, a multiple of 64.
        salt: the tenant, who sees only what was saved with the same salt.
        progress: called with (objects done, objects altogether).

    Raises:
        UnsupportedCache: the model keeps more than keys and values of tokens.
        StoreError: the store fails.
    """
    ids, store, model_id = token_ids(tokens), _opened(store), fingerprint(model)
    profile = profile or shipped_profile(model_id)
    return save(
        _prefilled(model, ids, store=store, fingerprint=model_id, salt=salt),
        tokens=ids,
        store=store,
        profile=profile,
        rope=None if profile else rope_map(model),
        levels=levels,
        chunk_tokens=chunk_tokens,
        fingerprint=model_id,
        salt=salt,
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
    salt: bytes = b"",
    progress: Callable[[int, int], None] | None = None,
    cancel: threading.Event | None = None,
) -> LoadedContext:
    """Load the cache of as much of a text as is stored, from its first token on.

    Pass the whole text and the cache to `model.generate`, which prefills what is missing; at
    least the last token is left to it. Chunks are fetched, or recomputed where that is sooner or
    they cannot be fetched.

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
        salt: the tenant, as it was saved.
        progress: called with (tokens there, tokens altogether), from another thread.
        cancel: set it to end the load.

    Raises:
        UnsupportedCache: the model keeps more than keys and values of tokens.
        ValueError: a level that nothing is stored at, or a level and a controller.
        LoadCancelled: `cancel` was set.
    """
    ids, model_id = token_ids(tokens), fingerprint(model)
    result = load(
        ids,
        store=_opened(store),
        profile=profile or shipped_profile(model_id),
        level=level,
        slo_s=slo_s,
        controller=controller,
        recompute=partial(capture, model),
        fingerprint=model_id,
        salt=salt,
        device=model.device,
        progress=progress,
        cancel=cancel,
    )
    kv = _without_last(result.kv, len(ids))
    if kv is None:
        return LoadedContext(new_cache(model), 0, result)
    return LoadedContext(to_cache(kv, model), kv.num_tokens, result)


def _opened(store: StoreOrUrl) -> Store:
    return _open(os.fspath(store)) if isinstance(store, (str, os.PathLike)) else store


@lru_cache(maxsize=16)
def _open(url: str) -> Store:
    """One store a URL, so that loads share its connections."""
    return open_store(url)


def _prefilled(
    model: PreTrainedModel, ids: tuple[int, ...], *, store: Store, fingerprint: bytes, salt: bytes
) -> KVCache:
    """The cache of a context; what is stored of it losslessly is not computed again."""
    past = _exact_prefix(ids, store=store, fingerprint=fingerprint, salt=salt, device=model.device)
    if past is not None and past.num_tokens == len(ids):
        return past
    start, known = past.num_tokens if past else 0, measurements_of(fingerprint, str(model.device))
    computed = timed_capture(model, ids[start:], past=past, known=known)
    known.save()
    return computed if past is None else KVCache.concat([past, computed])


def _exact_prefix(
    ids: tuple[int, ...], *, store: Store, fingerprint: bytes, salt: bytes, device: torch.device
) -> KVCache | None:
    try:
        found = load(
            ids, store=store, level=LOSSLESS, fingerprint=fingerprint, salt=salt, device=device
        )
    except ValueError:  # what is stored has no lossless level
        return None
    usable = found.kv is not None and found.kv.is_complete and found.exact
    return found.kv if usable else None


def _without_last(kv: KVCache | None, num_tokens: int) -> KVCache | None:
    """The cache without the text's last token; None where nothing is left.

    A snapshot of a finished cache cannot be shortened: its windows end with its last token.
    """
    if kv is None or not kv.is_complete:
        return None
    return kv.slice(0, min(kv.num_tokens, num_tokens - 1)) if num_tokens > 1 else None
