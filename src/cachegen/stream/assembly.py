"""Chunks of a cache joined in place: memory for the result once, and for a chunk at a time."""

from __future__ import annotations

import threading

import torch

from cachegen.kvcache import Geometry, KVCache


class Assembly:
    """A cache of ``capacity`` tokens from token 0 on, filled in any order by several threads."""

    def __init__(self, capacity: int) -> None:
        """Nothing is allocated before the first part tells the geometry."""
        self._capacity = capacity
        self._whole: KVCache | None = None
        self._allocating = threading.Lock()

    def kv(self, num_tokens: int) -> KVCache | None:
        """The first tokens, all of which must be there, without a copy; None for none."""
        if self._whole is None or num_tokens == 0:
            return None
        if num_tokens == self._whole.num_tokens:
            return self._whole
        return self._whole.slice(0, num_tokens)

    def misfit(self, part: KVCache, *, start: int, stop: int) -> str | None:
        """Why a part cannot be the tokens from ``start`` to ``stop``; None where it can."""
        if (part.start, part.stop) != (start, stop):
            return f"expected tokens from {start} to {stop}, got {part.start} to {part.stop}"
        if self._whole is not None and part.geometry != self._whole.geometry:
            return f"expected {self._whole.geometry}, got {part.geometry}"
        if not part.is_complete and part.num_tokens != self._capacity:
            return "expected every layer to hold every token"
        return None

    def room(self, geometry: Geometry, *, start: int, stop: int) -> KVCache | None:
        """Where the tokens from ``start`` to ``stop`` go, to be decoded there.

        None before a first part is there, since only what could be decoded tells the geometry;
        for another geometry; and on other devices than the CPU, where nothing is decoded.
        """
        whole = self._whole
        if whole is None or whole.device.type != "cpu" or geometry != whole.geometry:
            return None
        return whole.slice(start, stop) if stop <= self._capacity else None

    def place(self, part: KVCache) -> None:
        """Put a part that fits in its place; one that is the whole is kept as it is."""
        if part.num_tokens == self._capacity:
            self._whole = part
            return
        with self._allocating:
            if self._whole is None:
                self._whole = _empty_like(part, num_tokens=self._capacity)
        for whole, plane in zip(self._whole.planes(), part.planes(), strict=True):
            whole[:, part.start : part.stop].copy_(plane)


def _empty_like(part: KVCache, *, num_tokens: int) -> KVCache:
    def empty(plane: torch.Tensor) -> torch.Tensor:
        heads, _, dim = plane.shape
        return torch.empty((heads, num_tokens, dim), dtype=plane.dtype, device=plane.device)

    keys = tuple(empty(plane) for plane in part.keys)
    return KVCache(keys, tuple(empty(plane) for plane in part.values), num_tokens)
