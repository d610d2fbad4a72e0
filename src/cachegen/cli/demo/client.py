"""The demo's client: the document's cache from the text or over the link, checked bit for bit."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from cachegen.cli.demo.reader import DemoReader
from cachegen.codec.levels import TEXT
from cachegen.contexts.outcome import LoadedChunk
from cachegen.engines.transformers import capture, load_context
from cachegen.errors import CacheGenError
from cachegen.kvcache import KVCache
from cachegen.loading.result import LoadResult, Span
from cachegen.store import Store


class Client:
    """A client that gets the document's cache by every method and checks it."""

    def __init__(self, reader: DemoReader, store: Store) -> None:
        """``store`` is beyond the link; the reader's own one is the folder behind it."""
        self.reader, self.store = reader, store
        self._decoded: dict[str, KVCache] = {}

    def compute(self) -> LoadResult:
        """From the text alone."""
        num_tokens = len(self.reader.job.tokens)
        began_s = time.perf_counter()
        kv = capture(self.reader.model, self.reader.job.tokens)
        took_s = time.perf_counter() - began_s
        return LoadResult(
            kv=kv,
            num_tokens=num_tokens,
            exact=True,
            ttft_s=took_s,
            size_bytes=0,
            chunks=(LoadedChunk(0, num_tokens, TEXT),),
            spans=(Span("recompute", 0.0, took_s, 0, TEXT),),
        )

    def load(
        self,
        level: str | None,
        *,
        slo_s: float | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> LoadResult:
        """Over the link, at a level or as it seems best.

        Raises:
            CacheGenError: what came is not what was stored.
        """
        result = load_context(
            self.reader.model,
            self.reader.job.tokens,
            store=self.store,
            profile=self.reader.profile,
            level=level,
            slo_s=slo_s,
            progress=progress,
        ).result
        self.check(result)
        return result

    def check(self, result: LoadResult) -> None:
        """Every chunk is what the folder says, or what the model computes after those before it.

        Raises:
            CacheGenError: a bit is different, or a chunk is missing.
        """
        assert result.kv is not None
        for chunk in result.chunks:
            part, expected = result.kv.slice(chunk.start, chunk.stop), self._expected(result, chunk)
            if not all(map(torch.equal, part.planes(), expected.planes())):
                raise CacheGenError(f"wrong keys or values in tokens {chunk.start}:{chunk.stop}")

    def _expected(self, result: LoadResult, chunk: LoadedChunk) -> KVCache:
        if chunk.level is None:
            raise CacheGenError(f"tokens {chunk.start}:{chunk.stop} are missing: {chunk.reason}")
        if chunk.level == TEXT:
            assert result.kv is not None
            past = result.kv.slice(0, chunk.start) if chunk.start else None
            tokens = self.reader.job.tokens[chunk.start : chunk.stop]
            return capture(self.reader.model, tokens, past=past)
        if chunk.level not in self._decoded:
            whole = self.reader.load(chunk.level).result.kv
            assert whole is not None
            self._decoded[chunk.level] = whole
        return self._decoded[chunk.level].slice(chunk.start, chunk.stop)
