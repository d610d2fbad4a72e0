"""Tenants of one server: apart from each other, each with its own quota."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
import urllib3

from cachegen.errors import KeyNotFound, StoreDenied, StoreFull
from cachegen.store import open_store, read

MB = 10**6


def get(server, path: str, token: str) -> int:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return urllib3.request("GET", f"{server.url}{path}", headers=headers, retries=False).status


@pytest.fixture(scope="module")
def shared(serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    directory = tmp_path_factory.mktemp("tenants")
    tenants = [
        {"name": "a", "token": "token-a", "salt": "1", "operator": True},
        {"name": "b", "token": "token-b", "salt": "2", "quota_mb": 0.1},
    ]
    (directory / "tokens.json").write_text(json.dumps({"tenants": tenants}))
    options = ("--store", directory / "store", "--tenants", directory / "tokens.json")
    with serve(*options, "--access-log", errors=directory / "log") as server:
        yield server, directory


def test_nobody_sees_another_s_objects(shared) -> None:
    server, directory = shared
    a, b = server.client("token-a"), server.client("token-b")
    a.put("same/key", b"of a")
    assert b.lookup(["same/key"]) == [None]
    assert list(b.list()) == list(b.list("same")) == []
    with pytest.raises(KeyNotFound) as theirs:
        b.get("same/key")
    with pytest.raises(KeyNotFound) as nobodys:
        b.get("some/key")
    assert str(theirs.value).replace("same", "some") == str(nobodys.value)
    b.delete("same/key")
    assert b.put("same/key", b"of b") is True
    assert (read(a, "same/key"), read(b, "same/key")) == (b"of a", b"of b")
    (folder,) = {
        path.relative_to(directory / "store").parts[0]
        for path in directory.rglob("key")
        if path.read_bytes() == b"of a"
    }
    with pytest.raises(KeyNotFound):
        b.get(f"{folder}/same/key")


@pytest.mark.parametrize("token", ["", "token-c", "token-a "])
def test_a_wrong_token_is_refused(shared, token: str, monkeypatch) -> None:
    monkeypatch.delenv("CACHEGEN_TOKEN", raising=False)
    store = shared[0].client(token.replace(" ", "%21"))
    for verb in (
        lambda: store.get("k"),
        lambda: store.put("k", bytes(3 * MB)),
        lambda: store.lookup(["k"]),
        lambda: store.list(),
        lambda: store.delete("k"),
    ):
        with pytest.raises(StoreDenied, match="expected a valid token") as failure:
            verb()
        assert "token-c" not in str(failure.value)


def test_who_has_no_token_keeps_no_connection(shared) -> None:
    answer = urllib3.request("GET", f"{shared[0].url}/k", retries=False)
    assert (answer.status, answer.headers["Connection"]) == (401, "close")


def test_the_token_may_come_from_the_environment(shared, monkeypatch) -> None:
    monkeypatch.setenv("CACHEGEN_TOKEN", "token-a")
    store = open_store(f"cachegen://{shared[0].host}")
    store.put("from/environment", b"1")
    assert read(store, "from/environment") == b"1"


def test_plain_http_takes_the_token_as_a_password(shared) -> None:
    server, _ = shared
    server.client("token-a").put("for/all", b"1")
    assert read(open_store(f"http://anybody:token-a@{server.host}/"), "for/all") == b"1"
    with pytest.raises(StoreDenied):
        read(open_store(f"http://anybody:token-c@{server.host}/"), "for/all")


def test_quota(shared) -> None:
    server, _ = shared
    b = server.client("token-b")
    b.put("large", bytes(60_000))
    with pytest.raises(StoreFull, match="quota"):
        b.put("larger", bytes(60_000))
    assert server.client("token-a").put("larger", bytes(60_000))


def test_metrics_are_for_operators(shared) -> None:
    server, _ = shared
    found = [get(server, "/metrics", token) for token in ("token-a", "token-b", "x", "")]
    assert found == [200, 403, 401, 401]
    assert get(server, "/healthz", "") == 200


def test_the_log_names_the_tenant_and_no_token(shared) -> None:
    server, directory = shared
    server.client("token-a").lookup(["x"])
    expected = {"tenant": "a", "method": "POST", "path": "/~/lookup", "status": 200}
    deadline_s = time.monotonic() + 10  # the line is written after the answer
    while True:
        lines = (directory / "log").read_text().splitlines()
        if lines and expected.items() <= json.loads(lines[-1]).items():
            break
        assert time.monotonic() < deadline_s, lines[-1:]
        time.sleep(0.01)
    assert "token-" not in "".join(lines)
