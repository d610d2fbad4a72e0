"""The demo's second part: every method over a real link, and loads that are checked."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cachegen.cli.demo.client import Client
from cachegen.cli.demo.link import compare
from cachegen.cli.demo.reader import DemoReader
from cachegen.cli.demo.tables import show_link
from cachegen.cli.demo.writer import WriterJob, make_job
from cachegen.errors import CacheGenError
from cachegen.kvcache import KVCache
from cachegen.loading.result import LoadResult
from cachegen.netem import open_link
from cachegen.netem.serving import serving

MBIT_S = 20.0


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> WriterJob:
    return make_job(
        None,
        None,
        data=None,
        folder=tmp_path_factory.mktemp("demo") / "store",
        num_tokens=512,
        num_questions=2,
        chunk_tokens=64,
        seed=1,
    )


@pytest.fixture(scope="module")
def found(job: WriterJob) -> dict[str, Any]:
    picture = Path(job.store).with_name("load.svg")
    return compare(job, mbit_s=MBIT_S, picture=picture, step=lambda text: None)


def test_every_method_gives_the_document_over_the_link(found: dict[str, Any]) -> None:
    rows = {row["method"]: row for row in found["rows"]}
    assert list(rows) == ["text", "raw", "8-bit", "CacheGen high", "CacheGen adaptive"]
    sizes = [rows[name]["bytes"] for name in ("text", "CacheGen high", "8-bit", "raw")]
    assert sizes == sorted(sizes)
    assert sizes[0] == 0
    assert rows["text"]["kl"] == rows["raw"]["kl"] == 0
    assert rows["text"]["answers_equal"] == rows["raw"]["answers_equal"] == 1
    assert 0 < rows["8-bit"]["kl"] < rows["CacheGen high"]["kl"]
    for name in ("raw", "8-bit"):
        assert rows[name]["ttft_s"] > rows[name]["bytes"] * 8e-6 / MBIT_S
        assert rows[name]["fetch_s"] <= rows[name]["ttft_s"]


def test_a_load_during_which_the_rate_falls_is_drawn(found: dict[str, Any], job: WriterJob) -> None:
    falling = found["falling"]
    assert len(falling["levels"]) == -(-len(job.tokens) // 64)
    picture = Path(falling["timeline"]).read_text()
    assert "20 Mbit/s" in picture
    assert f"deadline: {1e3 * falling['slo_s']:.0f} ms" in picture


def test_the_table_names_every_method(
    found: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    show_link(found)
    printed = capsys.readouterr().out
    assert all(row["method"] in printed for row in found["rows"])
    assert found["kind"] in printed


@pytest.mark.usefixtures("found")
def test_a_load_that_is_wrong_in_one_value_is_refused(job: WriterJob) -> None:
    reader = DemoReader(job)
    client = Client(reader, reader.store)
    loaded = client.load("high")
    for chunk in (0, len(loaded.chunks) - 1):
        with pytest.raises(CacheGenError, match="wrong keys or values"):
            client.check(damaged(loaded, token=loaded.chunks[chunk].start))
    lost = replace(loaded.chunks[0], level=None, reason="gone")
    with pytest.raises(CacheGenError, match="missing: gone"):
        client.check(replace(loaded, chunks=(lost,)))


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    occupied = tmp_path / "store"
    occupied.write_text("a file, no folder")
    expected = pytest.raises(CacheGenError, match=r"expected `cachegen serve` to start.*store")
    with open_link(None) as link, expected, serving(link, occupied):
        pass


def damaged(result: LoadResult, *, token: int) -> LoadResult:
    assert result.kv is not None
    planes = [plane.clone() for plane in result.kv.planes()]
    planes[-1][0, token, 0] += 1
    kv = KVCache.from_layers(list(zip(planes[::2], planes[1::2], strict=True)))
    return replace(result, kv=kv)
