"""Loads from stores that lie: what they cost in memory and time, and that nothing of them stays."""

from __future__ import annotations

import builtins
import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import pytest

from cachegen.bitstream.format import pack
from cachegen.bitstream.identity import Ids, PrefixKey
from cachegen.bitstream.manifest import ChunkEntry, Manifest, StoredObject, object_key
from cachegen.contexts.objects import MAX_PROFILES
from cachegen.errors import KeyNotFound, LoadCancelled, StoreError
from cachegen.loading.resources import _SHARED, Room
from cachegen.policy.min_ttft import MinTTFT
from cachegen.store import Store, open_store, read
from tests.codec.peaks import constant, many_coefficients
from tests.hostile import MIB, Server, lying, measured
from tests.toy import FINGERPRINT, Intercepted, Toy

TOKENS = list(range(1000, 1500))
OK = b"HTTP/1.1 200 OK\r\n"
Lie = Callable[[Server, socket.socket], None]


@pytest.fixture(autouse=True)
def first_load(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """Nothing is known of the model or of any link."""
    monkeypatch.setenv("CACHEGEN_CACHE_DIR", str(tmp_path / "costs"))
    for known in (_SHARED().measurements, _SHARED().links):
        known.clear()


@pytest.fixture(scope="module")
def truth(toy: Toy) -> Store:
    store = open_store("memory:")
    toy.save(TOKENS, store, profile=toy.profile)
    return store


def serving(store: Store, lies: dict[str, Lie]):
    """A server of a store's objects that lies about those whose keys begin in some ways."""

    def answer(server: Server, connection: socket.socket, request: bytes) -> None:
        method, path = request.decode().split(" ")[:2]
        key = path.removeprefix("/")
        lie = next((lies[prefix] for prefix in lies if key.startswith(prefix)), None)
        server.open.discard(connection)  # honest ones may be kept for other requests
        if lie is not None and method == "GET":
            server.open.add(connection)
            lie(server, connection)
            return
        (size,) = store.lookup([key])
        if size is None:
            connection.sendall(b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n")
            return
        body = read(store, key) if method == "GET" else b""
        connection.sendall(OK + b"Content-Length: %d\r\n\r\n" % size + body)

    return lying(answer)


def endless(server: Server, connection: socket.socket) -> None:
    connection.sendall(OK + b"\r\n")
    server.pour(connection)


def endless_failure(server: Server, connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 500 X\r\n\r\n")
    server.pour(connection)


def endless_bytes(server: Server, connection: socket.socket) -> None:
    """One at a time, each of which costs a reader an object."""
    connection.sendall(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    server.pour(connection, b"1\r\na\r\n" * 10_000)


def silence(server: Server, connection: socket.socket) -> None:
    connection.recv(1)


def dribble(server: Server, connection: socket.socket) -> None:
    """128 bytes a second."""
    connection.sendall(OK + b"Content-Length: 4000\r\n\r\n")
    server.pour(connection, b"a" * 8, pause_s=1 / 16)


SLOW = pytest.mark.slow  # reads as the first of them does
LIES = {lie.__name__: lie for lie in (endless, endless_failure, endless_bytes, silence)}
NAMES = ["endless", "silence", *(pytest.param(n, marks=SLOW) for n in list(LIES)[1:3])]
WHAT = {"contexts/": "text", "profiles/": None, "chunks/": "text"}


@pytest.mark.parametrize("lie", NAMES)
@pytest.mark.parametrize("what", WHAT)
def test_what_a_lie_costs(toy: Toy, truth: Store, what: str, lie: str) -> None:
    with serving(truth, {what: LIES[lie]}) as server:
        store = open_store(f"http://{server.host}")
        with measured() as cost:
            result = toy.load(
                TOKENS,
                store,
                controller=MinTTFT(),
                recompute=toy.recompute(TOKENS),
                stall_s=0.15,
                max_bytes=64 * MIB,
            )
        server.await_end(1.0)
    toy.check(result, TOKENS, exact=WHAT[what] == "text")
    assert result.num_tokens == len(TOKENS)
    assert cost.num_bytes < 96 * MIB  # two readers of 16 MiB of manifests, copied once
    assert cost.seconds < 4.0


@pytest.mark.parametrize("lie", NAMES)
def test_what_a_lie_costs_without_a_model(toy: Toy, truth: Store, lie: str) -> None:
    with serving(truth, {"chunks/": LIES[lie]}) as server:
        store = open_store(f"http://{server.host}")
        with measured() as cost:
            result = toy.load(TOKENS, store, controller=MinTTFT(), stall_s=0.15, max_bytes=64 * MIB)
        server.await_end(1.0)
    assert result.num_tokens == 0
    assert cost.num_bytes < 16 * MIB and cost.seconds < 4.0


@pytest.mark.parametrize("lie", NAMES)
def test_what_a_lie_to_the_lookup_costs_without_a_model(toy: Toy, truth: Store, lie: str) -> None:
    with serving(truth, {"contexts/": LIES[lie]}) as server:
        store = open_store(f"http://{server.host}")
        with measured() as cost, suppress(StoreError):
            assert toy.load(TOKENS, store, stall_s=0.15).kv is None
        server.await_end(1.0)
    assert cost.num_bytes < 96 * MIB and cost.seconds < 2.0  # two readers of 16 MiB, copied once


@pytest.mark.parametrize("slo_s", [2.0, None])
def test_a_store_that_dribbles_loses_to_a_model_of_unknown_cost(
    toy: Toy, truth: Store, slo_s: float | None
) -> None:
    with serving(truth, {"chunks/": dribble}) as server:
        store, recompute = open_store(f"http://{server.host}"), toy.recompute(TOKENS)
        began_s = time.monotonic()
        result = toy.load(TOKENS, store, controller=MinTTFT(), recompute=recompute, slo_s=slo_s)
        assert time.monotonic() - began_s < 4.0
        server.await_end(1.0)
    assert {chunk.level for chunk in result.chunks} == {"text"}
    toy.check(result, TOKENS, exact=True)


def test_a_store_that_dribbles_is_given_up_without_a_model(toy: Toy, truth: Store) -> None:
    """Silence is no limit for it: a kilobyte a second is."""
    with serving(truth, {"chunks/": dribble}) as server:
        store = open_store(f"http://{server.host}")
        began_s = time.monotonic()
        result = toy.load(TOKENS, store, stall_s=0.2)
        assert time.monotonic() - began_s < 4.0
    assert result.num_tokens == 0
    assert "expected 1024 bytes a second" in result.chunks[0].reason


def test_cancelling_ends_what_is_waited_for(toy: Toy, truth: Store) -> None:
    with serving(truth, {"chunks/": silence}) as server:
        store, cancel = open_store(f"http://{server.host}"), threading.Event()
        threading.Timer(0.3, cancel.set).start()
        with pytest.raises(LoadCancelled):
            toy.load(TOKENS, store, cancel=cancel)
        server.await_end(1.0)


class Claiming:
    """A store in memory whose objects may be said to be of any size."""

    def __init__(self, objects: dict[str, bytes], sizes: dict[str, int] | None = None) -> None:
        self.objects, self.sizes = objects, sizes or {}
        self.url, self.asked = f"claiming:{id(self)}", 0

    def get(self, key: str, range: tuple[int, int] | None = None):
        self.asked += 1
        if key in self.sizes:
            return iter(lambda: b"\0" * 65_536, None)
        if key not in self.objects:
            raise KeyNotFound(key)
        return iter([self.objects[key]])

    def lookup(self, keys):
        known = self.sizes | {key: len(data) for key, data in self.objects.items()}
        return [known.get(key) for key in keys]


def one_chunk(*objects: StoredObject, stop: int = 128, chunk_id: bytes | None = None) -> Manifest:
    """A manifest of the first 128 tokens."""
    context_id = Ids(TOKENS[:128], PrefixKey(FINGERPRINT)).of(128)
    entry = ChunkEntry(chunk_id or context_id, 0, stop, objects)
    return Manifest(context_id, FINGERPRINT, 128, True, (entry,))


def named(
    level: str, *, chunk_id: bytes, stop: int = 128, size: int = 1000, profile: bytes = bytes(32)
) -> StoredObject:
    key = object_key(chunk_id, start=0, stop=stop, level=level, profile_hash=profile)
    return StoredObject(level, key, size, hashlib.sha256().digest(), profile)


def offered(manifest: Manifest, sizes: dict[str, int] | None = None) -> Claiming:
    key = f"contexts/{manifest.context_id.hex()}"
    return Claiming({key: manifest.to_bytes()}, sizes)


@pytest.mark.parametrize("count", [MAX_PROFILES + 1, 1_000])
def test_a_manifest_of_many_profiles_is_none(toy: Toy, count: int) -> None:
    whole = Ids(TOKENS[:128], PrefixKey(FINGERPRINT)).of(128)
    objects = (
        named(f"level{n}", chunk_id=whole, profile=n.to_bytes(32, "big"))
        for n in range(1, count + 1)
    )
    store = offered(one_chunk(*objects))
    began_s = time.monotonic()
    result = toy.load(TOKENS[:128], store, recompute=toy.recompute(TOKENS), stall_s=1.0)
    assert time.monotonic() - began_s < 3.0
    assert {chunk.level for chunk in result.chunks} == {"text"}
    assert store.asked < 10


def test_token_ids_are_read_as_far_as_they_are_needed(toy: Toy) -> None:
    """Of 191, the 63 behind those that are asked for, however many the store sends."""
    other, stop = b"\1" * 32, 191
    manifest = one_chunk(
        named("high", chunk_id=other, stop=stop, profile=b"\2" * 32), stop=stop, chunk_id=other
    )
    store = offered(manifest, {f"tokens/{other.hex()}": 4 * stop, "profiles/" + "02" * 32: 1})
    with measured() as cost:
        result = toy.load(TOKENS[:128], store, max_bytes=64 * MIB, stall_s=0.5)
    assert result.num_tokens == 0
    assert cost.num_bytes < 16 * MIB and cost.seconds < 2.0


def test_objects_that_have_no_room_are_not_fetched(toy: Toy) -> None:
    whole = Ids(TOKENS[:128], PrefixKey(FINGERPRINT)).of(128)
    stored = named("raw", chunk_id=whole, size=2**40)
    store = offered(one_chunk(stored), {stored.key: 2**40})
    with measured() as cost:
        result = toy.load(TOKENS[:128], store)
    assert result.num_tokens == 0
    assert "a larger max_bytes" in result.chunks[0].reason
    assert store.asked == 1 and cost.num_bytes < 4 * MIB


def wide_chunk(level: str = "high") -> bytes:
    """Some kilobytes that claim a million values a token: 256 MB in 128 tokens."""
    chunk = many_coefficients().chunk
    whole = Ids(TOKENS[:128], PrefixKey(FINGERPRINT)).of(128)
    return pack(
        replace(
            chunk,
            level=level,
            start=0,
            num_tokens=128,
            tokens_held=(128,) * chunk.geometry.num_layers,
            fingerprint=FINGERPRINT,
            chunk_id=whole,
            blocks=(constant(128, chunk.geometry.values_per_token),),
        )
    )


@pytest.mark.parametrize("with_model", [True, False])
def test_planes_that_have_no_room_are_not_decoded(toy: Toy, with_model: bool) -> None:
    data = wide_chunk()
    whole = Ids(TOKENS[:128], PrefixKey(FINGERPRINT)).of(128)
    stored = replace(
        named("high", chunk_id=whole, size=len(data)), sha256=hashlib.sha256(data).digest()
    )
    store = offered(one_chunk(stored))
    store.objects[stored.key] = data
    recompute = toy.recompute(TOKENS[:128]) if with_model else None
    with measured() as cost:
        result = toy.load(TOKENS[:128], store, max_bytes=128 * MIB, recompute=recompute)
    assert result.num_tokens == (128 if with_model else 0)
    assert "max_bytes" in result.chunks[0].reason
    assert cost.num_bytes < len(data) * 4 + 16 * MIB


def test_the_result_has_room_as_far_as_it_is_given(toy: Toy, truth: Store) -> None:
    """Of 500 tokens at 128 bytes each, and what is fetched and decoded with them."""
    assert toy.load(TOKENS, truth, max_bytes=4 * MIB).num_tokens == len(TOKENS)
    result = toy.load(TOKENS, truth, max_bytes=100_000)
    assert result.num_tokens < len(TOKENS)
    assert "max_bytes" in result.chunks[-1].reason
    with pytest.raises(ValueError, match="expected max_bytes"):
        toy.load(TOKENS, truth, max_bytes=0)


class Paced(Intercepted):
    """Objects in pieces of a kilobyte, after a while; counts those under way."""

    under_way, most = 0, 0

    def get(self, key: str, range: tuple[int, int] | None = None) -> Iterator[bytes]:
        self.under_way += key.startswith("chunks/")
        self.most = max(self.most, self.under_way)
        time.sleep(0.02)
        data = read(self.store, key)
        for start in builtins.range(0, len(data), 1024):
            time.sleep(0.001)
            yield data[start : start + 1024]
        self.under_way -= key.startswith("chunks/")


def test_transfers_wait_for_room(toy: Toy, truth: Store, monkeypatch) -> None:
    """At `high`, with 15 kB each, one object is under way at a time, or two."""
    paced = Paced(truth)
    toy.load(TOKENS, paced, level="high")
    time.sleep(0.2)  # what is known of the link is remembered after a load
    for room_bytes, is_more in ((1_000_000, True), (20_000, False)):
        monkeypatch.setattr(Room, "fetched_bytes", property(lambda _, n=room_bytes: n))
        paced.most = 0
        assert toy.load(TOKENS, paced, level="high").num_tokens == len(TOKENS)
        assert (paced.most > 1) == is_more
