"""LMCache beside: its server on this machine, its second tier a Redis behind the link.

Its in-process connector (0.5.6) has no way for CPUs; its server, with transfers by vLLM, has.
"""

from __future__ import annotations

import json
import os
import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cachegen.netem import Link, open_link
from serving.client import Client
from serving.engines import Engine, ended, free_port, started
from serving.prompts import Model, Prompts, prompts_of
from serving.sweep import (
    CONTEXT_TOKENS,
    FORCED_TOKENS,
    LEAST_EQUAL,
    RATES,
    Effort,
    Sample,
    say,
)

CHUNK_TOKENS = 256  # LMCache's default
_WARM_UP_TOKENS = 1024
_LIMIT_S = 300.0


@dataclass(frozen=True, slots=True, eq=False)
class Beside:
    """vLLM with LMCache, whose Redis is behind a link."""

    client: Client
    link: Link
    redis: tuple[str, int]
    admin: str

    def forget(self) -> None:
        """Empty vLLM's own cache and LMCache's memory on this machine."""
        self.client.forget()
        _post(f"{self.admin}/cache/clear", {"tier": "l1", "force": True})

    def sent_bytes(self) -> int:
        """What Redis has sent since its start."""
        line = next(x for x in self._ask("INFO stats") if x.startswith("total_net_output_bytes:"))
        return int(line.partition(":")[2])

    def await_stored(self, num_tokens: int) -> None:
        """Wait until the chunks of so many tokens are in Redis."""
        deadline_s = time.monotonic() + _LIMIT_S
        while int(self._ask("DBSIZE")[0].lstrip(":")) < num_tokens // CHUNK_TOKENS:
            if time.monotonic() > deadline_s:
                raise RuntimeError("LMCache does not store what it was asked")
            time.sleep(0.2)

    def _ask(self, command: str) -> list[str]:
        with socket.create_connection(self.redis, timeout=_LIMIT_S) as wire:
            wire.sendall(f"{command}\r\nQUIT\r\n".encode())
            with wire.makefile("rb") as answer:
                return answer.read().decode().splitlines()


def measure(model: Model, effort: Effort, folder: Path, python: Path) -> dict[int, Sample]:
    """Loads at every rate, with nothing of the context on this machine.

    Raises:
        RuntimeError: nothing was loaded, or other tokens follow than without.
    """
    prompts = prompts_of(model, CONTEXT_TOKENS)
    with _opened(model, folder, python) as beside:
        for number in (1001, 1002):
            beside.client.time(prompts.unseen(number, _WARM_UP_TOKENS))
        cold = _forced(beside, prompts)
        beside.await_stored(CONTEXT_TOKENS + 2 * _WARM_UP_TOKENS)
        beside.forget()
        _gate(cold, _forced(beside, prompts))
        found = {}
        for rate in RATES:
            beside.link.set_rate(rate)
            before, times = beside.sent_bytes(), []
            for number in range(effort.warm):
                beside.forget()
                times.append(beside.client.time(prompts.asked(number + 1)))
            loaded = sum(each.hit_tokens for each in times)
            found[rate] = Sample(times, beside.sent_bytes() - before, loaded)
            say(f"{model.name}: measured LMCache at {rate} Mbit/s")
    return found


def _forced(beside: Beside, prompts: Prompts) -> list[int]:
    return [
        beside.client.next_token(prompts.continued(number))
        for number in range(1, FORCED_TOKENS + 1)
    ]


def _gate(cold: list[int], warm: list[int]) -> None:
    equal = sum(a == b for a, b in zip(cold, warm, strict=True))
    say(f"gate of LMCache: {equal} of {FORCED_TOKENS} next tokens are the same")
    if equal < LEAST_EQUAL:
        raise RuntimeError(f"{equal} of {FORCED_TOKENS} next tokens are those of a prefill")


@contextmanager
def _opened(model: Model, folder: Path, python: Path) -> Iterator[Beside]:
    variables = {"LMCACHE_MP_TRANSFER_MODE": "engine_driven", "LMCACHE_TRACK_USAGE": "false"}
    with open_link(None) as link:
        host, port = _redis(link, folder)
        adapter = {"type": "resp", "host": host, "port": port, "num_workers": 2}
        wire, admin = free_port(), free_port()
        command = [str(python.parent / "lmcache"), "server", "--port", str(wire)]
        command += ["--http-port", str(admin), "--l1-size-gb", "1", "--eviction-policy", "LRU"]
        command += ["--supported-transfer-mode", "auto", "--l2-adapter", json.dumps(adapter)]
        transfer = {
            "kv_connector": "LMCacheMPConnector",
            "kv_connector_module_path": "lmcache.integration.vllm.lmcache_mp_connector",
            "kv_role": "kv_both",
            "kv_connector_extra_config": {
                "lmcache.mp.host": "tcp://localhost",
                "lmcache.mp.port": wire,
            },
        }
        engine = Engine(
            model.folder,
            folder / "lmcache",
            transfer,
            python=str(python),
            variables=variables,
        )
        url = f"http://127.0.0.1:{admin}"
        with ended(command, folder / "lmcache.log", os.environ | variables):
            _await(f"{url}/healthcheck")
            with started(engine) as (client,):
                yield Beside(client, link, (host, port), url)


def _redis(link: Link, folder: Path) -> tuple[str, int]:
    """Start Redis on the far side; its address on this one."""
    port = free_port()
    command = ["redis-server", "--bind", link.host, "--port", str(port), "--save", ""]
    command += ["--logfile", str(folder / "redis.log")]  # standard output is for JSON
    link.spawn([*command, "--protected-mode", "no", "--dir", str(folder)])
    host, _, near = link.address(port).rpartition(":")
    deadline_s = time.monotonic() + 30
    while True:
        try:
            socket.create_connection((host, int(near)), timeout=5).close()
            return host, int(near)
        except OSError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.1)


def _await(url: str) -> None:
    deadline_s = time.monotonic() + _LIMIT_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            if time.monotonic() > deadline_s:
                raise RuntimeError("expected LMCache's server to start") from None
            time.sleep(0.5)


def _post(url: str, body: dict[str, object]) -> None:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=_LIMIT_S):
        pass
