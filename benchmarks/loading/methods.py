"""Ways to have the cache of a stored context, and one measured load."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from cachegen.engines.transformers import capture, fingerprint
from cachegen.kvcache import KVCache
from cachegen.loading.load import load
from cachegen.loading.result import LoadResult
from cachegen.policy.algorithm1 import Algorithm1
from cachegen.policy.controller import Controller
from cachegen.policy.fixed import Fixed
from cachegen.policy.min_ttft import MinTTFT
from loading.world import Context, World, log_probabilities

TEXT, RAW, INT8 = "text", "raw", "int8"
ALGORITHM1, MIN_TTFT = "algorithm1", "min_ttft"
LOSSLESS, COLD = "lossless", "min_ttft_cold"
EXTRA = (LOSSLESS, COLD)
SLO_S = 0.2
_STORED_AS = {INT8: "packed"}


@dataclass(frozen=True, slots=True)
class Timed:
    """One load.

    Attributes:
        ttft_s: until the whole cache is there.
        lookup_s, fetch_s, decode_s, recompute_s: its parts, which overlap.
        size_bytes: chunks that came over the link.
        levels: of every chunk.
    """

    ttft_s: float
    lookup_s: float
    fetch_s: float
    decode_s: float
    recompute_s: float
    size_bytes: int
    levels: tuple[str, ...]


def names(world: World, extra: Sequence[str]) -> list[str]:
    """All methods, the alternatives first, and those of the extra ones that are wanted."""
    ladder = [level.name for level in world.profile.levels]
    alone = [TEXT, RAW, INT8, *(name for name in extra if name == LOSSLESS), *ladder]
    return [*alone, ALGORITHM1, MIN_TTFT, *(name for name in extra if name == COLD)]


def alternatives(world: World, extra: Sequence[str]) -> list[str]:
    """The single ways at the default level's quality or better."""
    ladder = [level.name for level in world.profile.levels]
    good = ladder[ladder.index(world.profile.default_level) :]
    return [TEXT, RAW, INT8, *(name for name in extra if name == LOSSLESS), *good]


def controller_of(method: str) -> Controller:
    """The controller behind a method that loads."""
    if method == MIN_TTFT:
        return MinTTFT()
    return Algorithm1() if method == ALGORITHM1 else Fixed(_STORED_AS.get(method, method))


def fetch(world: World, context: Context, method: str) -> LoadResult:
    """Load the context over the link; the paper's algorithm needs a deadline."""
    return load(
        context.tokens,
        store=world.remote,
        profile=world.profile,
        controller=controller_of(method),
        slo_s=SLO_S if method == ALGORITHM1 else None,
        recompute=partial(capture, world.model),
        fingerprint=fingerprint(world.model),
    )


def prefill(world: World, context: Context) -> Timed:
    """The whole context from its text; it needs no link."""
    began_s = time.perf_counter()
    capture(world.model, context.tokens)
    seconds = time.perf_counter() - began_s
    return Timed(seconds, 0.0, 0.0, 0.0, seconds, 0, (TEXT,) * len(context.manifest.chunks))


def timed(result: LoadResult) -> Timed:
    """What is kept of a load."""
    return Timed(
        result.ttft_s,
        result.lookup_s,
        result.fetch_s,
        result.decode_s,
        result.recompute_s,
        result.size_bytes,
        tuple(chunk.level or "missing" for chunk in result.chunks),
    )


def cold(world: World, context: Context) -> Timed:
    """The first load of a new process, which knows nothing of the link and the machine."""
    with tempfile.TemporaryDirectory() as nothing:
        done = subprocess.run(
            [sys.executable, "-m", "loading.cold"],
            cwd=Path(__file__).parents[1],
            input=json.dumps({"url": world.remote.url, "tokens": context.tokens}),
            env=os.environ | {"CACHEGEN_CACHE_DIR": nothing},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    found = json.loads(done.stdout)
    return Timed(**found | {"levels": tuple(found["levels"])})


def run(world: World, context: Context, method: str) -> Timed:
    """One measured load."""
    if method == TEXT:
        return prefill(world, context)
    if method == COLD:
        return cold(world, context)
    return timed(fetch(world, context, method))


@dataclass(eq=False)
class Judge:
    """KL of caches by the levels of their chunks, each measured once.

    Attributes:
        world: the model.
        context: what was loaded.
        known: nats per token, by levels.
    """

    world: World
    context: Context
    known: dict[tuple[str, ...], float] = field(default_factory=dict)

    def kl(self, levels: tuple[str, ...]) -> float:
        """Nats per token of the continuation, against the uncompressed cache."""
        if set(levels) <= {TEXT, RAW, LOSSLESS}:
            return 0.0
        if levels not in self.known:
            self.known[levels] = self._measure(levels)
        return self.known[levels]

    def _measure(self, levels: tuple[str, ...]) -> float:
        expected = self._expected
        found = log_probabilities(self.world, self.context, self.rebuilt(levels))
        return float((expected.exp() * (expected - found)).sum(-1).mean())

    @functools.cached_property
    def _expected(self) -> torch.Tensor:
        return log_probabilities(self.world, self.context, self.context.kv)

    def rebuilt(self, levels: tuple[str, ...]) -> KVCache:
        """The cache that such a load must give: decoded from disk, recomputed on what is before."""
        return rebuild(self.world, self.context, levels)


def rebuild(world: World, context: Context, levels: tuple[str, ...]) -> KVCache:
    """A context from its stored chunks without the loader, and from the model where it is text."""
    from cachegen.bitstream.chunk import decode
    from cachegen.store import read

    parts: list[KVCache] = []
    for chunk, level in zip(context.manifest.chunks, levels, strict=True):
        tokens = context.tokens[chunk.start : chunk.stop]
        if level == TEXT:
            past = KVCache.concat(parts) if parts else None
            parts.append(capture(world.model, tokens, past=past))
            continue
        key = next(stored.key for stored in chunk.objects if stored.level == level)
        parts.append(decode(read(world.local, key), profile=world.profile, tokens=tokens))
    return KVCache.concat(parts)


def gate(
    world: World, context: Context, methods: Sequence[str], report: Callable[[str], None]
) -> None:
    """Every method gives the very cache that its levels stand for, or nothing is timed.

    Raises:
        SystemExit: one does not.
    """
    for method in methods:
        if method in (TEXT, COLD):
            continue
        result = fetch(world, context, method)
        levels = timed(result).levels
        assert result.kv is not None
        expected = rebuild(world, context, levels)
        equal = [a.equal(b) for a, b in zip(result.kv.planes(), expected.planes(), strict=True)]
        if not all(equal):
            raise SystemExit(f"{method}: the loaded cache differs from the decoded chunks {levels}")
        report(method)
