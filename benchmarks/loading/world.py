"""What the loading benchmark loads from: a model, a stored context, a server behind a link."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cachegen import refmodel
from cachegen.bitstream.manifest import Manifest
from cachegen.cli.models import load_model
from cachegen.codec.levels import FIXED_LEVELS
from cachegen.codec.profile import Profile, read_profile
from cachegen.contexts.save import save
from cachegen.engines.transformers import capture, fingerprint, measure_prefill
from cachegen.kvcache import KVCache
from cachegen.netem import Link, open_link
from cachegen.netem.serving import serving
from cachegen.store import Store, open_store

CONTINUATION_TOKENS = 128
TEXT = "heldout-chesterton"


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """Everything that is the same for all methods.

    Attributes:
        model: the reference model.
        profile: its profile.
        tokens: a text, longer than any context.
        local: the store, without a link.
        remote: the same behind the link.
        link: its rate can be changed.
    """

    model: Any
    profile: Profile
    tokens: list[int]
    local: Store
    remote: Store
    link: Link


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """A stored context.

    Attributes:
        tokens: all of them.
        continuation: what follows in the text.
        kv: its cache, uncompressed.
        manifest: what is stored of it.
    """

    tokens: list[int]
    continuation: list[int]
    kv: KVCache
    manifest: Manifest


@contextmanager
def opened_world(*, data: Path | None = None) -> Iterator[World]:
    """Start the server on the far side of a link; everything ends with the block."""
    with (
        tempfile.TemporaryDirectory() as parent,
        open_link(None) as link,
        serving(link, folder := Path(parent) / "store") as url,
    ):
        print(f"link: {link.kind} ({link.reason})", file=sys.stderr)
        model, tokenizer = load_model(refmodel.weights_path())
        text = refmodel.read_texts(data) if data else refmodel.load_text(TEXT)
        tokens = tokenizer(text, verbose=False).input_ids
        measure_prefill(model, tokens, lengths=(256, 768, 1536))
        yield World(
            model=model,
            profile=read_profile(refmodel.profile_path()),
            tokens=tokens,
            local=open_store(str(folder)),
            remote=open_store(url),
            link=link,
        )


def store_context(
    world: World,
    *,
    num_tokens: int,
    chunk_tokens: int,
    first: int = 0,
    least_level: str | None = None,
) -> Context:
    """Prefill a context and store it, at every level from the least one wanted on.

    ``first`` tokens of the text are left out.
    """
    ladder = [level.name for level in world.profile.levels]
    least = 0 if least_level is None else ladder.index(least_level)
    text = world.tokens[first:]
    tokens = text[:num_tokens]
    kv = capture(world.model, tokens)
    manifest = save(
        kv,
        tokens=tokens,
        store=world.remote,
        profile=world.profile,
        levels=[*ladder[least:], *(level.name for level in FIXED_LEVELS)],
        chunk_tokens=chunk_tokens,
        fingerprint=fingerprint(world.model),
    )
    continuation = text[num_tokens : num_tokens + CONTINUATION_TOKENS]
    return Context(tokens, continuation, kv, manifest)


@torch.inference_mode()
def log_probabilities(world: World, context: Context, kv: KVCache) -> torch.Tensor:
    """Log-probabilities (tokens, vocabulary) of the continuation on top of a cache."""
    from cachegen.engines.transformers import to_cache

    logits: torch.Tensor = world.model(
        input_ids=torch.tensor([context.continuation]), past_key_values=to_cache(kv, world.model)
    ).logits[0]
    return logits.double().log_softmax(-1)
