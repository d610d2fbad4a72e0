"""The decoder: objects become planes, in threads that all loads share, joined in one cache."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from cachegen.bitstream.manifest import ChunkEntry, StoredObject, layers_by_kind
from cachegen.codec.codec import decode_chunk
from cachegen.codec.codecs import codec_of
from cachegen.contexts.objects import Profiles, open_chunk
from cachegen.errors import BitstreamError, CacheGenError
from cachegen.kvcache import Geometry, KVCache, PlaneShape
from cachegen.loading.ledger import Journal
from cachegen.policy.controller import LoadState, Status
from cachegen.store import Buffer

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
        expected = self.expected(part.geometry, layers)
        if part.geometry != expected:
            return f"expected {expected}, got {part.geometry}"
        if not part.is_complete and part.num_tokens != self._capacity:
            return "expected every layer to hold every token"
        return None

    def size_bytes(self, geometry: Geometry, layers: Sequence[int] | None = None) -> int:
        """Bytes of the result with room for these layers, besides those that have it already."""
        named = tuple(range(geometry.num_layers) if layers is None else layers)
        with self._allocating:
            others = [self._layers[layer] for layer in self._layers.keys() - set(named)]
        allocated = sum(plane.nbytes for planes in others for plane in planes)
        token_bytes = geometry.values_per_token * geometry.dtype.itemsize
        return allocated + token_bytes * self._capacity

    def room(
        self, geometry: Geometry, *, start: int, stop: int, layers: Sequence[int] | None = None
    ) -> KVCache | None:
        """A view of the result to decode the tokens from ``start`` to ``stop`` into.

        None before a first part was placed, as only a decoded chunk tells the geometry; for another
        geometry; and on devices other than the CPU, where nothing is decoded.
        """
        named = tuple(range(geometry.num_layers) if layers is None else layers)
        if stop > self._capacity or geometry != self.expected(geometry, layers):
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

    def expected(self, found: Geometry, layers: Sequence[int] | None) -> Geometry:
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


def _copied(kv: KVCache) -> KVCache:
    """A copy: views of some tokens would keep the planes of all of them alive."""
    keys, values = (tuple(plane.clone() for plane in planes) for planes in (kv.keys, kv.values))
    return KVCache(keys, values, kv.num_tokens, kv.start)


def _with_last(kv: KVCache, last: Sequence[int]) -> KVCache:
    """The cache with only so many last tokens of each layer."""
    keys, values = (
        tuple(plane[:, max(plane.shape[1] - n, 0) :] for plane, n in zip(planes, last, strict=True))
        for planes in (kv.keys, kv.values)
    )
    return KVCache(keys, values, kv.num_tokens, kv.start)


Objects = tuple[StoredObject, ...]
Data = tuple[memoryview, ...]


class DecoderThreads:
    """The threads that decode for all loads, in the order of submission.

    Each decodes a chunk with two threads, so that there are half as many as cores.
    """

    def __init__(self, num_threads: int) -> None:
        """Set the number of threads; they start when needed."""
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="cachegen-decode")
        self._lock = threading.Lock()
        self._num_threads = num_threads
        self._pending = 0

    def submit(self, work: Callable[[], None]) -> None:
        """Run work, which may not raise, after all that was submitted before."""
        with self._lock:
            self._pending += 1
        self._pool.submit(work).add_done_callback(lambda _: self._done())

    def share(self, own: int) -> int:
        """How many chunks share a thread, for a load with ``own`` chunks submitted."""
        with self._lock:
            return 1 + max(self._pending - own, 0) // self._num_threads

    def _done(self) -> None:
        with self._lock:
            self._pending -= 1


@dataclass(frozen=True, slots=True, eq=False)
class Decoder:
    """Decodes chunks of one context.

    Attributes:
        tokens: uint32 (tokens,): those to load.
        tail: the last chunk's tokens behind them, or why they could not be read.
        profiles: to decode with.
        fingerprint: SHA-256 that identifies the model.
        windows: attention windows of its layers, as in the manifest.
        assembly: the cache to decode into.
        device: of that cache.
        decoding_bytes: what decoding a chunk may take, from the bytes of the result.
    """

    tokens: NDArray[np.uint32]
    tail: list[int] | CacheGenError
    profiles: Profiles
    fingerprint: bytes
    windows: tuple[int, ...]
    assembly: Assembly
    device: torch.device | str
    decoding_bytes: Callable[[int], int]

    def decode(self, data: Buffer, entry: ChunkEntry, stored: StoredObject) -> None:
        """Decode the wanted tokens of a chunk, or of some of its layers, into the assembly.

        After an error their place there may hold anything.

        Raises:
            BitstreamError: the bytes are damaged, another chunk's, of another geometry, or too many
                once decoded.
            ProfileMismatch, TokensMismatch: encoded for another model, or for other tokens.
            CacheGenError: the profile or the chunk's other tokens cannot be read.
        """
        profile, assembly = self.profiles.get(stored.profile_hash), self.assembly
        layers = layers_by_kind(self.windows).get(stored.layers)
        coded = open_chunk(
            data, entry=entry, level=stored.level, fingerprint=self.fingerprint, layers=layers
        )
        expected = assembly.expected(coded.geometry, layers)
        if coded.geometry != expected:
            raise BitstreamError(f"expected {expected}, got {coded.geometry}", field="geometry")
        left_bytes = self.decoding_bytes(assembly.size_bytes(coded.geometry, layers))
        tokens = self._tokens_of(entry) if codec_of(coded.codec).needs_tokens else None
        room = None
        if set(coded.tokens_held) == {entry.num_tokens}:
            room = assembly.room(coded.geometry, start=entry.start, stop=entry.stop, layers=layers)
        part = decode_chunk(coded, profile=profile, tokens=tokens, out=room, max_bytes=left_bytes)
        if room is not None:
            return
        stop = min(entry.stop, len(self.tokens))
        if stop < entry.stop:
            part = _copied(part.slice(0, stop - entry.start))
        misfit = assembly.misfit(part, start=entry.start, stop=stop, layers=layers)
        if misfit:
            raise BitstreamError(misfit, field="geometry")
        assembly.place(part.to(self.device), layers)

    def _tokens_of(self, entry: ChunkEntry) -> list[int]:
        """All tokens of a chunk, including those behind the wanted ones."""
        known: list[int] = self.tokens[entry.start : entry.stop].tolist()
        if len(known) == entry.num_tokens:
            return known
        if isinstance(self.tail, CacheGenError):
            raise self.tail
        return known + self.tail


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """A chunk whose objects were decoded, or why they could not be; times on the load's clock."""

    chunk: int
    objects: Objects
    began_s: float
    ended_s: float
    error: CacheGenError | None


class Decoding:
    """The chunks of one load that wait for the decoder or are in it."""

    def __init__(
        self,
        decoder: Decoder,
        threads: DecoderThreads,
        state: LoadState,
        journal: Journal,
        *,
        post: Callable[[Callable[[], None]], None],
        decoded: Callable[[Decoded], None],
    ) -> None:
        """Start without any.

        Args:
            decoder: of the load's context.
            threads: to decode in.
            state: of the load, told when decoding begins and ends.
            journal: of the load.
            post: takes what the deciding thread is to do next, from any thread.
            decoded: is told of every end.
        """
        self.num_pending = self.pending_bytes = 0
        self._decoder, self._threads, self._state, self._journal = decoder, threads, state, journal
        self._post, self._decoded = post, decoded

    @property
    def share(self) -> int:
        """How many chunks share a thread."""
        return self._threads.share(self.num_pending)

    def start(self, chunk: int, entry: ChunkEntry, objects: Objects, data: Data) -> None:
        """Decode the objects of a chunk, after all that was started before."""
        self._state.chunks[chunk].status = Status.DECODING
        self.num_pending += 1
        self.pending_bytes += sum(len(own) for own in data)
        self._threads.submit(partial(self._decode, chunk, entry, objects, data))

    def _decode(self, chunk: int, entry: ChunkEntry, objects: Objects, data: Data) -> None:
        """Decode a chunk, in a thread of the decoder."""
        began_s, error = self._journal.now_s(), None
        self._post(partial(self._note, began_s))
        try:
            for stored, its_data in zip(objects, data, strict=True):
                self._decoder.decode(its_data, entry, stored)
        except CacheGenError as found:
            error = found
        except Exception as found:  # whatever a decoder stumbles over costs a level, not the load
            error = BitstreamError(f"{type(found).__name__}: {found}", field=objects[0].key)
        decoded = Decoded(chunk, objects, began_s, self._journal.now_s(), error)
        self._post(partial(self._end, decoded, sum(len(own) for own in data)))

    def _note(self, began_s: float | None) -> None:
        self._state.decode_began_s = began_s

    def _end(self, decoded: Decoded, num_bytes: int) -> None:
        self.num_pending -= 1
        self.pending_bytes -= num_bytes
        self._note(None)
        self._decoded(decoded)
