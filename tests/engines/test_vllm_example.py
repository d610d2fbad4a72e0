"""The example with vLLM runs where vLLM is; settings and commands are checked anywhere."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from cachegen.engines.vllm.config import read_config

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "vllm"
LIMIT_S = 900  # two servers of vLLM, which start in 30 s each where nothing else runs


def transfers(path: Path) -> list[dict[str, Any]]:
    """Every ``--kv-transfer-config`` of a file."""
    text = path.read_text(encoding="utf-8")
    return [
        json.loads(re.sub(r"""'"[^"]*"'""", "", match))
        for match in re.findall(r'\{\s*"kv_connector".*?\}\s*\}', text, re.DOTALL)
    ]


@pytest.mark.parametrize(
    "name", ["examples/vllm/two_servers.sh", "examples/vllm/compose.yml", "docs/guide/vllm.md"]
)
def test_settings_are_those_that_the_connector_takes(name: str) -> None:
    found = transfers(ROOT / name)
    assert found
    for transfer in found:
        assert transfer["kv_connector"] == "CacheGenConnector"
        assert transfer["kv_load_failure_policy"] == "recompute"
        assert read_config(transfer["kv_connector_extra_config"]).store.startswith("cachegen://")


def commands() -> Iterator[list[str]]:
    """Every `cachegen serve` of the guide and of the compose file."""
    guide = (ROOT / "docs" / "guide" / "vllm.md").read_text(encoding="utf-8")
    yield from (
        shlex.split(line) for line in re.findall(r"^cachegen serve .*", guide, re.MULTILINE)
    )
    services = yaml.safe_load((EXAMPLE / "compose.yml").read_text(encoding="utf-8"))["services"]
    yield services["contexts"]["command"]


def test_commands_have_the_options_that_they_are_given() -> None:
    command = [sys.executable, "-m", "cachegen.cli", "serve", "--help"]
    known = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = list(commands())
    assert len(found) >= 2
    for command in found:
        options = {word for word in command if word.startswith("--")}
        assert {"--store", "--host", "--port"} <= options <= set(re.findall(r"--[a-z-]+", known))


def test_the_image_has_what_the_compose_file_calls() -> None:
    services = yaml.safe_load((EXAMPLE / "compose.yml").read_text(encoding="utf-8"))["services"]
    assert {
        Path(EXAMPLE / service["build"]["context"]).resolve() for service in services.values()
    } == {ROOT}
    for service in services.values():
        assert (ROOT / service["build"]["dockerfile"]).exists()
    assert "cachegen://contexts:8080" in services["vllm"]["command"][-1]


@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: make test-vllm")
def test_a_second_server_loads_what_the_first_has_saved(tmp_path: Path) -> None:
    settings = {
        "PYTHON": sys.executable,
        "PORT": str(free_ports()),
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "CACHEGEN_CACHE_DIR": str(tmp_path),
        "TMPDIR": str(tmp_path),
    }
    command = [str(EXAMPLE / "two_servers.sh")]
    done = subprocess.run(
        command, env=os.environ | settings, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    found = {
        match[1].strip(): (int(match[2]), int(match[3]), match[4])
        for match in re.finditer(
            r"^(.*): [\d.]+ s, (\d+) of (\d+) tokens not computed: (.*)$", done.stdout, re.MULTILINE
        )
    }
    hits = {name: known for name, (known, _, _) in found.items()}
    prompt_tokens = found["first server"][1]
    assert hits["first server"] == 0 and hits["its own cache"] > prompt_tokens // 2
    assert hits["second server"] == prompt_tokens - prompt_tokens % 256, "all whole chunks"


def free_ports() -> int:
    """A port that is free, and so probably the next one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
