"""Runs on vLLM itself: `make test-vllm`. Without vLLM nothing here is collected."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tests.engines.vllm.engine import tiny

HAS_VLLM = find_spec("vllm") is not None
collect_ignore_glob = [] if HAS_VLLM else ["test_*.py"]


def pytest_report_header() -> str:
    return "" if HAS_VLLM else "tests/engines/vllm/engine: not collected, vLLM is not installed"


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> str:
    """Folder of a tiny Llama with random weights."""
    folder = tmp_path_factory.mktemp("model")
    tiny.write_llama(folder)
    return str(folder)
