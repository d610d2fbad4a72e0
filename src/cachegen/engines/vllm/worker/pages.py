"""Where decoded chunks go: straight into the blocks of the request that waits for them."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from cachegen.engines.vllm.layout.paged import PagedCache
from cachegen.kvcache import Geometry, KVCache
from cachegen.loading.decoding import Assembly


class Pages(Assembly):
    """A cache of a request in vLLM's blocks, filled chunk by chunk by decoding threads.

    Nothing is written after `close`: the blocks may be another request's then.
    """

    def __init__(
        self, paged: PagedCache, blocks: Sequence[Sequence[int]], *, start: int, stop: int
    ) -> None:
        """Start with nothing.

        Args:
            paged: the worker's cache.
            blocks: of the request, from token 0 on, for every group.
            start, stop: the tokens to write; ``start`` and those of chunks begin blocks.
        """
        super().__init__(stop)
        self._paged, self._blocks = paged, blocks
        self._start, self._stop = start, stop
        self._writing = threading.Lock()
        self._is_closed = False
        self._ranges: list[tuple[int, int]] = []

    def expected(self, found: Geometry, layers: Sequence[int] | None) -> Geometry:
        """The worker's geometry, whatever the store claims."""
        geometry = self._paged.geometry
        return geometry if layers is None else geometry.of_layers(layers)

    def size_bytes(self, geometry: Geometry, layers: Sequence[int] | None = None) -> int:
        """Nothing: the blocks are there already."""
        return 0

    def room(
        self, geometry: Geometry, *, start: int, stop: int, layers: Sequence[int] | None = None
    ) -> None:
        """None: blocks hold tokens in another order."""

    def misfit(
        self, part: KVCache, *, start: int, stop: int, layers: Sequence[int] | None = None
    ) -> str | None:
        """Why a part cannot be written; None if it can."""
        if not part.is_complete:
            return "expected every layer to hold every token"
        return super().misfit(part, start=start, stop=stop, layers=layers)

    def place(self, part: KVCache, layers: Sequence[int] | None = None) -> None:
        """Write the wanted tokens of a chunk, unless nobody waits for them any more."""
        first, last = max(part.start, self._start), min(part.stop, self._stop)
        if first >= last:
            return
        wanted = part.slice(first - part.start, last - part.start)
        with self._writing:
            if self._is_closed:
                return
            self._paged.write(wanted, self._blocks)
            self._ranges.append((first, last))

    def place_all(self, kv: KVCache | None) -> None:
        """Write all wanted tokens at once, of layers with windows those that are needed.

        Raises:
            ValueError: it holds fewer than are needed.
        """
        if kv is None or kv.num_tokens < self._stop:
            return
        wanted = kv.slice(self._start, self._stop)
        with self._writing:
            if not self._is_closed:
                self._paged.write(wanted, self._blocks)
                self._ranges.append((self._start, self._stop))

    def kv(self, num_tokens: int, *, last: Sequence[int] | None = None) -> None:
        """None: the blocks are the result."""

    def close(self) -> int:
        """End all writing, and return up to which token everything is written."""
        with self._writing:
            self._is_closed = True
        stop = self._start
        for first, last in sorted(self._ranges):
            if first > stop:
                break
            stop = max(stop, last)
        return stop
