"""Every example runs as a process of its own, and prints what it would not print if it failed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
LIMIT_S = 150
AT_ONCE = 2

PRINTED = {
    "chat_long_document.py": r"otter\? 1296\. \(right\)",
    "many_questions.py": r"with 3 beams: The passkey of amber is 4821\.",
    "own_policy.py": r"SharpEnd\(num_tokens=200\): low, low, highest, highest; \d+ bytes",
    "own_store.py": r"3 of 6 chunks are near now: those of the level that was loaded",
    "raw_tensors.py": r"loaded 320 of 323 tokens, equal: True",
    "shared_folder.py": r"first process: loaded 640 of \d+ tokens; amber\? 4821\.",
    "team_server.py": r"support finds, in tokens: {'search': 0, 'support': 340}",
}
PRINTED_WITH_SERVERS = {
    "redis_store.py": r"after an eviction: tokens 256\.\.512 recomputed",
    # How much of it is recomputed or fetched at which level depends on the machine's load.
    "s3.py": r"loaded 591 of 592 tokens at (low|high|lossless|text)(, (low|high|lossless|text))*",
}
PRINTED_SLOWLY = {"calibrate_model.py": r"high +craik +\d+\.\d\d +0\.00\d+ +\d+%"}


def run(name: str, folder: Path, *arguments: str, **settings: str) -> str:
    """What an example prints; it works in the folder, and computes with one thread."""
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | settings
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert done.returncode == 0, done.stderr
    assert not list(folder.iterdir()), "an example leaves nothing behind"
    return done.stdout


def check(printed: str, pattern: str) -> None:
    assert any(re.fullmatch(pattern, line) for line in printed.splitlines()), printed


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[str]]]:
    """The selected examples that need no server, two at a time; most of each is imports."""
    selected = [
        item.callspec.params["name"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.function is test_an_example
    ]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {name: pool.submit(run, name, tmp_path_factory.mktemp("e")) for name in selected}
        pool.shutdown(cancel_futures=True)


@pytest.mark.slow
@pytest.mark.usefixtures("runs")
def test_a_bucket(s3_server: str, tmp_path: Path) -> None:
    account = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    place = {"AWS_ENDPOINT": s3_server, "AWS_REGION": "us-east-1"}
    printed = run("s3.py", tmp_path, "s3://bucket/examples", **account, **place)
    check(printed, PRINTED_WITH_SERVERS["s3.py"])


@pytest.mark.slow
@pytest.mark.usefixtures("runs")
def test_redis(redis_server: str, tmp_path: Path) -> None:
    printed = run("redis_store.py", tmp_path, redis_server)
    check(printed, PRINTED_WITH_SERVERS["redis_store.py"])


@pytest.mark.slow
@pytest.mark.parametrize("name", PRINTED)
def test_an_example(runs: dict[str, Future[str]], name: str) -> None:
    check(runs[name].result(), PRINTED[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", PRINTED_SLOWLY)
def test_a_slow_example(tmp_path: Path, name: str) -> None:
    check(run(name, tmp_path), PRINTED_SLOWLY[name])


def test_every_example_is_run_and_described() -> None:
    files = {path.name for path in EXAMPLES.glob("*.py")}
    assert files == {*PRINTED, *PRINTED_WITH_SERVERS, *PRINTED_SLOWLY}
    described = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert files == set(re.findall(r"^- \[(\S+\.py)\]\(\1\) - ", described, re.MULTILINE))
