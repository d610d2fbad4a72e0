"""Loads from a Redis that restarts under them, and saves into one that is full."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from cachegen.errors import StoreFull
from cachegen.store import open_store
from tests.store.conftest import free_port, program, running
from tests.toy import Intercepted, Toy

TOKENS = list(range(500))


class Restarting:
    """A Redis without files: what was in it is gone after a restart."""

    def __init__(self, folder: Path) -> None:
        self.port, self._stack = free_port(), ExitStack()
        options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
        self._command = [program("redis-server"), "--port", str(self.port), *options]
        self.url = f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._stack.enter_context(running(self._command, port=self.port))

    def stop(self) -> None:
        self._stack.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Restarting]:
    server = Restarting(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.mark.parametrize("comes_back", [True, False])
@pytest.mark.parametrize("with_model", [True, False])
def test_a_restart_in_the_middle_of_a_load(
    toy: Toy, server: Restarting, comes_back: bool, with_model: bool
) -> None:
    """Nothing wrong is loaded, and nothing is waited for."""
    store = open_store(server.url)
    toy.save(TOKENS, store, levels=["high"])
    asked: list[str] = []

    def restart(key: str) -> None:
        if key.startswith("chunks/"):
            asked.append(key)
            if len(asked) == 2:
                server.stop()
                if comes_back:
                    server.start()

    began_s = time.monotonic()
    recompute = toy.recompute(TOKENS) if with_model else None
    result = toy.load(TOKENS, Intercepted(store, restart), level="high", recompute=recompute)
    assert time.monotonic() - began_s < 8.0
    assert any(chunk.reason for chunk in result.chunks)
    assert result.num_tokens == (len(TOKENS) if with_model else 128)
    toy.check(result, TOKENS, exact=False)


def test_a_full_redis_is_told_and_leaves_no_half_context(toy: Toy, server: Restarting) -> None:
    store = open_store(server.url)
    with redis.Redis.from_url(server.url) as client:
        limit = client.info("memory")["used_memory"] + 120_000
        client.config_set("maxmemory", limit)
        client.config_set("maxmemory-policy", "noeviction")
    tokens = list(range(2000))
    with pytest.raises(StoreFull, match="cannot put"):
        toy.save(tokens, store, profile=toy.profile)
    assert toy.load(tokens, store).num_tokens < len(tokens)
