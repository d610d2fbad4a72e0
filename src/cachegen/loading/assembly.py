"""Joins chunks of a cache in place, in the memory of the result plus that of one chunk."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch

from cachegen.kvcache import Geometry, KVCache, PlaneShape

_Planes = tuple[torch.Tensor, torch.Tensor]


class Assembly:
    """A cache of ``capacity`` tokens from token 0 on, filled in any order by several threads.

    A part holds all layers, or those that are named with it.
    """

    def __init__(self, capacity: int, num_layers: int | None = None) -> None:
        """Allocate nothing yet: the first parts tell the geometry."""
        self._capacity, self._num_layers = capacity, num_layers
        self._whole: KVCache | None = None
        self._layers: dict[int, _Planes] = {}
        self._allocating = threading.Lock()

    def kv(self, num_tokens: int, *, last: Sequence[int] | None = None) -> KVCache | None:
        """The cache of the first tokens, without a copy; None if there are none.

        All of them must be placed. With ``last``, each layer holds only so many last tokens, and
        only those must be placed.
        """
        whole = self._joined()
        if whole is None or num_tokens == 0:
            return None
        part = whole if num_tokens == whole.num_tokens else whole.slice(0, num_tokens)
        return part if last is None else _with_last(part, last)

    def misfit(
        self, part: KVCache, *, start: int, stop: int, layers: Sequence[int] | None = None
    ) -> str | None:
        """Why a part cannot be the tokens from ``start`` to ``stop``; None if it can."""
        if (part.start, part.stop) != (start, stop):
            return f"expected tokens from {start} to {stop}, got {part.start} to {part.stop}"
        expected = self._expected(part.geometry, layers)
        if part.geometry != expected:
            return f"expected {expected}, got {part.geometry}"
        if not part.is_complete and part.num_tokens != self._capacity:
            return "expected every layer to hold every token"
        return None

    def room(
        self, geometry: Geometry, *, start: int, stop: int, layers: Sequence[int] | None = None
    ) -> KVCache | None:
        """A view of the result to decode the tokens from ``start`` to ``stop`` into.

        None before a first part was placed, as only a decoded chunk tells the geometry; for another
        geometry; and on devices other than the CPU, where nothing is decoded.
        """
        named = tuple(range(geometry.num_layers) if layers is None else layers)
        if stop > self._capacity or geometry != self._expected(geometry, layers):
            return None
        with self._allocating:
            if self._whole is not None or not all(layer in self._layers for layer in named):
                return None
            keys, values = zip(*(self._layers[layer] for layer in named), strict=True)
        if keys[0].device.type != "cpu":
            return None
        return KVCache(keys, values, self._capacity).slice(start, stop)

    def place(self, part: KVCache, layers: Sequence[int] | None = None) -> None:
        """Copy a part that fits into the result; a part that is the whole becomes the result."""
        if layers is None:
            self._num_layers = part.num_layers
            if part.num_tokens == self._capacity:
                self._whole = part
                return
        named = tuple(range(part.num_layers) if layers is None else layers)
        for layer, key, value in zip(named, part.keys, part.values, strict=True):
            for into, plane in zip(self._room_of(layer, key, value), (key, value), strict=True):
                if into is not plane:
                    into[:, part.start : part.stop].copy_(plane)

    def _room_of(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> _Planes:
        """Memory for all tokens of a layer; these planes themselves if they hold all tokens."""
        with self._allocating:
            if layer not in self._layers:
                is_all = key.shape[1] == self._capacity
                self._layers[layer] = (
                    (key, value)
                    if is_all
                    else (_empty_like(key, self._capacity), _empty_like(value, self._capacity))
                )
            return self._layers[layer]

    def _joined(self) -> KVCache | None:
        """The cache with everything placed so far; None if nothing is."""
        if self._whole is not None:
            return self._whole
        with self._allocating:
            planes = [self._layers[layer] for layer in sorted(self._layers)]
        if not planes:
            return None
        keys, values = zip(*planes, strict=True)
        return KVCache(keys, values, self._capacity)

    def _expected(self, found: Geometry, layers: Sequence[int] | None) -> Geometry:
        """The geometry that parts of these layers must have; the found one as far as unknown."""
        with self._allocating:
            known = dict(self._layers)
        if self._whole is not None:
            known = dict(enumerate(zip(self._whole.keys, self._whole.values, strict=True)))
        named = range(self._num_layers or found.num_layers) if layers is None else layers
        planes: list[PlaneShape] = []
        for place, layer in enumerate(named):
            if layer in known:
                planes += [PlaneShape(p.shape[0], p.shape[2]) for p in known[layer]]
            else:
                planes += found.planes[2 * place : 2 * place + 2]
        dtypes = [key.dtype for key, _ in known.values()]
        return Geometry(tuple(planes), dtypes[0] if dtypes else found.dtype)


def _empty_like(plane: torch.Tensor, num_tokens: int) -> torch.Tensor:
    heads, _, dim = plane.shape
    return torch.empty((heads, num_tokens, dim), dtype=plane.dtype, device=plane.device)


def _with_last(kv: KVCache, last: Sequence[int]) -> KVCache:
    """The cache with only so many last tokens of each layer."""
    keys, values = (
        tuple(plane[:, max(plane.shape[1] - n, 0) :] for plane, n in zip(planes, last, strict=True))
        for planes in (kv.keys, kv.values)
    )
    return KVCache(keys, values, kv.num_tokens, kv.start)
