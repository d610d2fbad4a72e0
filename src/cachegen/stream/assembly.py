"""Chunks of a cache joined in place: memory for the result once, and for a chunk at a time."""

from __future__ import annotations

import torch

from cachegen.kvcache import KVCache


class Assembly:
    """A cache of up to ``capacity`` tokens that grows from token 0 on."""

    def __init__(self, capacity: int) -> None:
        """Nothing is allocated before the first part tells the geometry."""
        self.num_tokens = 0
        self._capacity = capacity
        self._whole: KVCache | None = None

    def kv(self) -> KVCache | None:
        """What has been appended, without a copy; None when nothing has."""
        if self._whole is None or self.num_tokens == self._whole.num_tokens:
            return self._whole
        return self._whole.slice(0, self.num_tokens)

    def misfit(self, part: KVCache, *, stop: int | None = None) -> str | None:
        """Why a part cannot come next (and end at ``stop``); None where it can."""
        if part.start != self.num_tokens or stop not in (None, part.stop):
            end = "" if stop is None else f" to {stop}"
            return f"expected tokens from {self.num_tokens}{end}, got {part.start} to {part.stop}"
        if self._whole is not None and part.geometry != self._whole.geometry:
            return f"expected {self._whole.geometry}, got {part.geometry}"
        if not part.is_complete and part.num_tokens != self._capacity:
            return "expected every layer to hold every token"
        return None

    def append(self, part: KVCache) -> None:
        """Add a part that fits; the only one is kept as it is."""
        if part.num_tokens == self._capacity:
            self._whole = part
        else:
            self._copy(part)
        self.num_tokens = part.stop

    def _copy(self, part: KVCache) -> None:
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
