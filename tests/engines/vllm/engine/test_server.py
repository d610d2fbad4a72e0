"""vLLM's server: the connector by its name alone, in processes, and what `/metrics` tells."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.engines.vllm.engine.served import PATIENT
from tests.engines.vllm.engine.tiny import prompt

PROMPT, OTHER = prompt(1100, 77), prompt(600, 78)


@contextmanager
def serving(model: str, store: str, log) -> Iterator[str]:
    """A server of vLLM; its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    transfer = {
        "kv_connector": "CacheGenConnector",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {"store": store, "level": "lossless", **PATIENT},
    }
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model),
        *("--served-model-name", "tiny", "--dtype", "bfloat16", "--enforce-eager"),
        *("--max-model-len", "2048", "--skip-tokenizer-init", "--host", "127.0.0.1"),
        *("--port", str(port), "--kv-transfer-config", json.dumps(transfer)),
        *("--shutdown-timeout", "20"),
    ]
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "INFO",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
        # What one server learns, the other does not know: it loads what is stored.
        "CACHEGEN_CACHE_DIR": tempfile.mkdtemp(prefix="cachegen-test-"),
    }
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        deadline_s = time.monotonic() + 300
        while not is_ready(url):
            assert process.poll() is None and time.monotonic() < deadline_s, log.name
            time.sleep(0.5)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        with suppress(ProcessLookupError):  # what it has started does not always end with it
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def complete(url: str, tokens: list[int]) -> list[int]:
    body = {
        "model": "tiny",
        "prompt": tokens,
        "max_tokens": 12,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
        "detokenize": False,
    }
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)["choices"][0]["token_ids"]


def metric(url: str, name: str) -> float:
    """The sum of a counter over its labels."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=20) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + "{"))


def awaited(url: str, name: str, least: float) -> float:
    deadline_s = time.monotonic() + 60
    while (found := metric(url, name)) < least:
        assert time.monotonic() < deadline_s, f"{name} stays at {found}"
        time.sleep(0.2)
        complete(url, [5, 6, 7])  # counters come with steps
    return found


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    with (tmp_path_factory.mktemp("log") / "vllm.log").open("w+") as file:
        yield file


def test_a_second_server_loads_what_the_first_has_saved(model: str, tmp_path, log) -> None:
    """The first ends as soon as it has answered: what it has to save is saved all the same."""
    with serving(model, str(tmp_path), log) as url:
        cold = complete(url, PROMPT)
    with serving(model, str(tmp_path), log) as url:
        assert complete(url, PROMPT) == cold
        assert awaited(url, "vllm:cachegen_tokens_loaded_total", 1) == 1024
        assert metric(url, "vllm:cachegen_hits_total") == 1
        assert awaited(url, "vllm:cachegen_store_bytes", 1) > 10_000
        assert metric(url, "vllm:external_prefix_cache_hits_total") == 1024
        assert metric(url, "vllm:cachegen_misses_total") == 0
        complete(url, OTHER)
        assert awaited(url, "vllm:cachegen_tokens_saved_total", 512) == 512
        assert metric(url, "vllm:cachegen_misses_total") == 1
        assert metric(url, "vllm:cachegen_bytes_saved_total") > 5_000
