"""What clients do that they should not: the server's answers to it are known too."""

from __future__ import annotations

import time

from cachegen.errors import StoreDenied
from soak_world.clients import Client, Own
from soak_world.objects import content_of, draw_size
from soak_world.raw import HALF_HANDSHAKE, chunked, dial, dial_tls, head, reset, status_of
from soak_world.service import MAX_OBJECT_MB, MB

# Nothing under these keys is ever sent to its end.
GHOSTS = "ghost"


def wrong_token(client: Client) -> None:
    """Ask with a token that names nobody."""
    stranger = client.home.store("nobody")
    try:
        stranger.lookup(["raw/00/1-1"])
    except StoreDenied:
        return
    client.home.tally.blame("a wrong token was answered")


def half_handshake(client: Client) -> None:
    """Begin TLS, and say no more."""
    with dial(client.home.port) as connection:
        connection.sendall(HALF_HANDSHAKE[: client.rng.randrange(7)])
        client.home.stop.wait(client.rng.uniform(0, 3))


def dribbled_upload(client: Client) -> None:
    """Send an object byte by byte, and go."""
    with dial_tls(client.home.port) as connection:
        connection.sendall(_put_head(client, "Content-Length: 200000"))
        end_s = time.monotonic() + client.rng.uniform(0.5, 3)
        while time.monotonic() < end_s:
            connection.sendall(b"x" * client.rng.randrange(1, 100))
            time.sleep(0.05)


def broken_upload(client: Client) -> None:
    """Send a part of an object, and hang up without goodbye."""
    size_bytes = draw_size(client.rng) + 10
    with dial_tls(client.home.port) as connection:
        connection.sendall(_put_head(client, f"Content-Length: {size_bytes}"))
        connection.sendall(bytes(client.rng.randrange(size_bytes)))
        reset(connection)


def broken_chunks(client: Client) -> None:
    """Send chunks whose sizes are none."""
    with dial_tls(client.home.port) as connection:
        connection.sendall(_put_head(client, "Transfer-Encoding: chunked"))
        connection.sendall(b"5\r\nabcde\r\nzz\r\n")
        if status_of(connection) in (201, 412):
            client.home.tally.blame("chunks without sizes were taken")


def oversize(client: Client) -> None:
    """Send, or announce, what is too large."""
    size_bytes = MAX_OBJECT_MB * MB + 1
    with dial_tls(client.home.port) as connection:
        if client.rng.random() < 0.5:
            connection.sendall(_put_head(client, f"Content-Length: {size_bytes}"))
        else:
            connection.sendall(_put_head(client, "Transfer-Encoding: chunked"))
            connection.sendall(chunked(bytes(size_bytes)))
        status = status_of(connection)
    if status not in (413, 507, 503, None):
        client.home.tally.blame(f"an object that is too large was answered with {status}")


def trailers(client: Client) -> None:
    """Put an object in chunks, with trailers behind it."""
    key = client.next_key(client.rng.randrange(1, 100_000))
    own = Own(key, is_sure=False)
    client.own.append(own)
    with dial_tls(client.home.port) as connection:
        connection.sendall(head("PUT", key, client.home.tenant.token, "Transfer-Encoding: chunked"))
        body = content_of(client.home.tenant.name, key)
        connection.sendall(chunked(body, "Content-Length: 1", "Authorization: Bearer nobody"))
        own.is_sure = status_of(connection) == 201


def broken_download(client: Client) -> None:
    """Ask for an object, take a little of it and hang up."""
    if not client.own:
        return
    key = client.rng.choice(list(client.own)).key
    with dial_tls(client.home.port) as connection:
        connection.sendall(head("GET", key, client.home.tenant.token))
        connection.recv(1000)
        reset(connection)


def others_keys(client: Client) -> None:
    """Ask for what others have, by their keys and by their folders' names."""
    home, rng = client.home, client.rng
    other = rng.choice(home.others)
    key = f"raw/{rng.randrange(16):02}/{rng.randrange(1, 50)}-1000"
    with dial_tls(home.port) as connection:
        path = rng.choice((f"../{other}/{key}", f"{other}/{key}", f"..%2f{key}"))
        connection.sendall(head("GET", path, home.tenant.token))
        status = status_of(connection)
    if status not in (400, 404, 503, None):
        home.tally.blame(f"{path} of another tenant was answered with {status}")
    for foreign in client.store.list(other):
        home.tally.blame(f"{foreign} of another tenant was listed")


def no_parents(client: Client) -> None:
    """Put an object that needs itself, or what is not there."""
    key = client.next_key(client.rng.randrange(1, 10_000))
    own = Own(key, is_sure=False)
    client.own.append(own)
    parent = client.rng.choice((key, "raw/none", *(one.key for one in client.own)))
    client.store.put(key, content_of(client.home.tenant.name, key), parent=parent)
    own.is_sure = True


def _put_head(client: Client, *lines: str) -> bytes:
    key = f"{GHOSTS}/{client.number}/{client.rng.randrange(1 << 30)}"
    return head("PUT", key, client.home.tenant.token, *lines)


DEEDS = {
    "save": (Client.save, 12),
    "save given up": (Client.save_part, 3),
    "load": (Client.load, 25),
    "load cancelled": (Client.load_cancelled, 6),
    "forget": (Client.forget, 4),
    "put": (Client.put, 25),
    "get": (Client.get, 15),
    "settle": (lambda client: client.settle() if client.own else None, 6),
    "list": (Client.list_keys, 2),
    "wrong token": (wrong_token, 1),
    "half handshake": (half_handshake, 2),
    "dribbled upload": (dribbled_upload, 2),
    "broken upload": (broken_upload, 3),
    "broken chunks": (broken_chunks, 1),
    "oversize": (oversize, 1),
    "trailers": (trailers, 2),
    "broken download": (broken_download, 3),
    "others' keys": (others_keys, 2),
    "strange parents": (no_parents, 2),
}
HONEST = ("save", "load", "put", "get", "settle")
