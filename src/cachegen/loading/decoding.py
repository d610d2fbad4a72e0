"""Decodes objects into the cache of a load, in threads that all loads share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from cachegen.bitstream.kinds import layers_by_kind
from cachegen.bitstream.manifest import ChunkEntry, StoredObject
from cachegen.codec.codec import decode_chunk
from cachegen.codec.codecs import codec_of
from cachegen.contexts.objects import open_chunk
from cachegen.contexts.profiles import Profiles
from cachegen.errors import BitstreamError, CacheGenError
from cachegen.loading.assembly import Assembly
from cachegen.loading.journal import Journal
from cachegen.policy.controller import LoadState, Status
from cachegen.store import Buffer

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
    """

    tokens: NDArray[np.uint32]
    tail: list[int] | CacheGenError
    profiles: Profiles
    fingerprint: bytes
    windows: tuple[int, ...]
    assembly: Assembly
    device: torch.device | str

    def decode(self, data: Buffer, entry: ChunkEntry, stored: StoredObject) -> None:
        """Decode the wanted tokens of a chunk, or of some of its layers, into the assembly.

        After an error their place there may hold anything.

        Raises:
            BitstreamError: the bytes are damaged, another chunk's, or of another geometry.
            ProfileMismatch, TokensMismatch: encoded for another model, or for other tokens.
            CacheGenError: the profile or the chunk's other tokens cannot be read.
        """
        profile, assembly = self.profiles.get(stored.profile_hash), self.assembly
        layers = layers_by_kind(self.windows).get(stored.layers)
        coded = open_chunk(
            data, entry=entry, level=stored.level, fingerprint=self.fingerprint, layers=layers
        )
        tokens = self._tokens_of(entry) if codec_of(coded.codec).needs_tokens else None
        room = None
        if set(coded.tokens_held) == {entry.num_tokens}:
            room = assembly.room(coded.geometry, start=entry.start, stop=entry.stop, layers=layers)
        part = decode_chunk(coded, profile=profile, tokens=tokens, out=room)
        if room is not None:
            return
        stop = min(entry.stop, len(self.tokens))
        part = part.slice(0, stop - entry.start)
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
        self.num_pending = 0
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
        self._post(partial(self._end, decoded))

    def _note(self, began_s: float | None) -> None:
        self._state.decode_began_s = began_s

    def _end(self, decoded: Decoded) -> None:
        self.num_pending -= 1
        self._note(None)
        self._decoded(decoded)
