"""vLLM's server in processes of its own, with and without a connector."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving.client import Client

HERE = Path(__file__).parents[1]
# Names the file that `timed.py` appends to.
FILE_VARIABLE = "CACHEGEN_BENCHMARK_LOOKUPS"
# Of prompts and what follows; the shipped model has no more.
MAX_MODEL_LEN = 8192
# Starting takes 24 s alone on two cores; beside work of a higher priority it took ten minutes.
_START_S = 1200.0


@dataclass(frozen=True, slots=True)
class Engine:
    """How to start a server.

    Attributes:
        model: folder of the model.
        folder: for its log, and for what the connector learns.
        transfer: its ``--kv-transfer-config``; None for vLLM alone.
        options: further arguments of the server.
        python: of the environment that vLLM is in.
        variables: further variables of its environment.
    """

    model: Path
    folder: Path
    transfer: Mapping[str, Any] | None = None
    options: tuple[str, ...] = ()
    python: str = sys.executable
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def lookups(self) -> Path:
        """Nanoseconds of the connector's answers, one a line."""
        return self.folder / "lookups"

    def command(self, port: int) -> list[str]:
        """The server's program and arguments.

        vLLM's own cache of prefixes stays on, as users have it; `Client.forget` empties it.
        """
        command = [self.python, "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--model", str(self.model), "--served-model-name", "model"]
        command += ["--host", "127.0.0.1", "--port", str(port), "--enforce-eager"]
        command += ["--max-model-len", str(MAX_MODEL_LEN), "--enable-prompt-tokens-details"]
        if self.transfer is not None:
            command += ["--kv-transfer-config", json.dumps(self.transfer)]
        return [*command, *self.options]

    def environment(self) -> dict[str, str]:
        """Of the server; the development mode has the endpoint that `Client.forget` needs.

        One core is reserved in every server: by itself vLLM reserves one more for a connector, and
        on two cores then computes on both with one, and on one without.
        """
        return {
            **os.environ,
            "PYTHONPATH": str(HERE),
            "HF_HUB_OFFLINE": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_NUM_OF_RESERVED_CPU": "1",
            "VLLM_SERVER_DEV_MODE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "CACHEGEN_CACHE_DIR": str(self.folder / "learned"),
            FILE_VARIABLE: str(self.lookups),
            **self.variables,
        }


def through_cachegen(extra: Mapping[str, Any]) -> dict[str, Any]:
    """A ``--kv-transfer-config`` of our connector, whose answers are timed."""
    return {
        "kv_connector": "TimedConnector",
        "kv_connector_module_path": "serving.timed",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": dict(extra),
    }


@contextmanager
def started(*engines: Engine) -> Iterator[tuple[Client, ...]]:
    """Start servers side by side; they end with the block.

    Raises:
        RuntimeError: one ended, or was not ready in time; with the end of its log.
    """
    with ExitStack() as stack:
        begun = [stack.enter_context(_process(engine)) for engine in engines]
        deadline_s = time.monotonic() + _START_S
        for engine, (process, client) in zip(engines, begun, strict=True):
            while not client.is_ready():
                if process.poll() is not None or time.monotonic() > deadline_s:
                    raise RuntimeError(f"expected vLLM to start, it said:\n{_errors(engine)}")
                time.sleep(0.5)
        yield tuple(client for _, client in begun)


def _errors(engine: Engine) -> str:
    """The first lines of its log that name an error, and the end of it."""
    lines = (engine.folder / "vllm.log").read_text(errors="replace").splitlines()
    return "\n".join([*[line for line in lines if "Error" in line][:10], "...", *lines[-5:]])


@contextmanager
def _process(engine: Engine) -> Iterator[tuple[subprocess.Popen[bytes], Client]]:
    port = free_port()
    with ended(engine.command(port), engine.folder / "vllm.log", engine.environment()) as process:
        yield process, Client(port)


@contextmanager
def ended(
    command: list[str], log: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program with a log; it and what it has started end with the block."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, env=environment, stdout=file, stderr=file, start_new_session=True
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
