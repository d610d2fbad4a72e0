import json
import os
import threading
import time
import warnings
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest

from cachegen.loading.measurements import FOLDER_VARIABLE, Measurements
from cachegen.policy.costs import Costs

FINGERPRINT = bytes(range(32))
FILE = b'{"format": "cachegen-costs-1", "prefill": %b, "decode": %b, "links": {}}'
NUMBERS = st.integers() | st.floats() | st.sampled_from([9, 10**400, 1e308, 0, -1, True])
VALUES = NUMBERS | st.none() | st.text(max_size=3) | st.lists(NUMBERS, max_size=3)
SAMPLES = st.lists(st.lists(NUMBERS, min_size=2, max_size=3) | VALUES, max_size=4)
JSON = st.fixed_dictionaries(
    {
        "format": st.just("cachegen-costs-1"),
        "prefill": SAMPLES | VALUES,
        "decode": st.dictionaries(st.text(max_size=3), SAMPLES | VALUES, max_size=3) | VALUES,
        "links": st.dictionaries(st.text(max_size=3), VALUES, max_size=3) | VALUES,
    }
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "costs"))
    return tmp_path / "costs"


def measured() -> Measurements:
    known = Measurements.read(FINGERPRINT, "cpu")
    for num_tokens in (64, 256, 1024):
        known.add_prefill(num_tokens, 100, num_tokens * 1e-3)
        known.add_decode("high", num_tokens, num_tokens * 1e-5)
    known.add_link("http://host/a", 1e6, 0.01)
    return known


def test_what_was_saved_is_read():
    measured().save()
    found = Measurements.read(FINGERPRINT, "cpu")
    assert found.costs("http://host/a") == measured().costs("http://host/a")
    assert found.costs().prefill.seconds(500, past=0) == pytest.approx(0.5)
    assert found.costs().decode_s("high", 500) == pytest.approx(0.005)
    assert found.costs("http://host/a").request_s == 0.01
    assert found.throughput("http://host/a") == 1e6


def test_nothing_is_known_at_first(folder: Path):
    found = Measurements.read(FINGERPRINT, "cpu")
    assert found.costs("http://host/a") == Costs()
    assert found.throughput("http://host/a") is None
    assert not folder.exists()


def test_another_model_or_device_is_another_matter():
    measured().save()
    assert Measurements.read(bytes(32), "cpu").costs() == Costs()
    assert Measurements.read(FINGERPRINT, "cuda:0").costs() == Costs()


@pytest.mark.parametrize(
    "content",
    (
        b"",
        b"\xff\xfe",
        b"[]",
        b"{",
        b'{"format": "another"}',
        b'{"format": "cachegen-costs-1", "prefill": [[1, 2]], "decode": {}, "links": {}}',
        b'{"format": "cachegen-costs-1", "prefill": [], "decode": [], "links": {}}',
        b'{"format": "cachegen-costs-1", "prefill": [[9, 0, NaN]], "decode": {}, "links": {}}',
        b'{"format": "cachegen-costs-1", "prefill": [], "decode": {}, "links": {"a": [-1, 0, 0]}}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        FILE % (b"[[%b, 0, 1.0]]" % (b"9" * 400), b"{}"),
        FILE % (b"[[9, 0, %b]]" % (b"9" * 400), b"{}"),
        FILE % (b"[[9, 0, %b]]" % (b"9" * 5000), b"{}"),
        FILE % (b"[[9, true, 1.0]]", b"{}"),
        FILE % (b"[[9, 0, 1e300]]", b"{}"),
        FILE % (b"[%b]" % b",".join([b"[9, 0, 1.0]"] * 33), b"{}"),
        FILE % (b"[]", b"{%b}" % b",".join(b'"%d": []' % n for n in range(65))),
        FILE % (b"[]", b'{"%b": []}' % (b"a" * 3000)),
        b" " * (2 << 20),
    ),
    ids=lambda content: f"{content[:24]!r}-{len(content)}",
)
def test_a_damaged_file_says_nothing(content: bytes):
    known = measured()
    known.save()
    known.path.write_bytes(content)
    with pytest.warns(RuntimeWarning, match="expected measurements of this machine"):
        found = Measurements.read(FINGERPRINT, "cpu")
    assert found.costs("http://host/a") == Costs()
    found.add_decode("high", 100, 0.1)
    found.save()
    assert Measurements.read(FINGERPRINT, "cpu").costs().decode_s("high", 100) > 0


def _endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", (os.mkfifo, _endless, os.mkdir))
def test_what_is_no_file_is_not_waited_for(make, folder: Path):
    path = measured().path
    folder.mkdir()
    make(path)
    began_s = time.monotonic()
    with pytest.warns(RuntimeWarning, match="it is no file"):
        found = Measurements.read(FINGERPRINT, "cpu")
    assert time.monotonic() - began_s < 1.0
    assert found.costs() == Costs()
    found.add_decode("high", 100, 0.1)
    found.save()


def test_any_bytes_may_be_in_the_file(folder: Path):
    @hypothesis.given(content=JSON)
    @hypothesis.settings(max_examples=80, deadline=None)
    def read(content: object) -> None:
        path.write_text(json.dumps(content))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = Measurements.read(FINGERPRINT, "cpu")
        costs = found.costs("http://host/a")
        assert costs.prefill is None or costs.prefill.seconds(100) >= 0

    path = measured().path
    folder.mkdir()
    read()


def test_a_folder_that_cannot_be_written_costs_nothing_but_the_memory(folder: Path):
    folder.write_text("a file where the folder should be")
    known = measured()
    known.save()
    assert known.throughput("http://host/a") == 1e6


def test_saving_leaves_one_file(folder: Path):
    for _ in range(3):
        measured().save()
    assert [path.suffix for path in folder.iterdir()] == [".json"]


def test_recent_samples_of_all_lengths_stay():
    known = measured()
    known.add_prefill(4096, 0, 9.0)
    for _ in range(200):
        known.add_prefill(1536, 0, 1.5)
    known.save()
    kept = json.loads(known.path.read_text())["prefill"]
    assert len(kept) == 32
    assert {n for n, _, _ in kept} == {64, 256, 1024, 1536, 4096}


def test_new_samples_count_at_once():
    known = measured()
    before = known.costs().decode_s("high", 1000)
    for _ in range(60):
        known.add_decode("high", 1024, 1.0)
    assert known.costs().decode_s("high", 1000) > 10 * before


def test_no_secret_is_written():
    known = measured()
    known.add_link("cachegen://:secret@host:1234/b?signature=secret", 5.0, 0.1)
    known.save()
    assert "secret" not in known.path.read_text()
    assert known.throughput("cachegen://:other@host:1234/b") == 5.0


def test_the_last_stores_are_remembered():
    known = measured()
    for number in range(100):
        known.add_link(f"http://host/{number}", 1.0, 0.0)
    assert known.throughput("http://host/a") is None
    assert known.throughput("http://host/99") == 1.0


def test_threads_may_add_while_others_read():
    known = measured()

    def work(level: str) -> None:
        for number in range(100):
            known.add_decode(level, number + 1, 0.1)
            known.costs()

    threads = [threading.Thread(target=work, args=(level,)) for level in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {"a", "b", "c"} <= known.costs().decode.keys()


def test_a_throughput_of_long_ago_is_not_known_and_repeating_it_is_no_news():
    known = measured()
    known.save()
    content = json.loads(known.path.read_text())
    content["links"]["http://host/a"][2] -= 7200
    known.path.write_text(json.dumps(content))
    found = Measurements.read(FINGERPRINT, "cpu")
    assert found.throughput("http://host/a") is None
    assert found.costs("http://host/a").request_s == 0.01
    found.add_link("http://host/a", 1e6, 0.01)
    assert found.throughput("http://host/a") is None
    found.add_link("http://host/a", 2e6, 0.01)
    assert found.throughput("http://host/a") == 2e6
