import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cachegen.evaluation.results_json import read_result, read_results, to_json
from tests.evaluation.report import example


def test_what_is_written_is_read(tmp_path):
    results = (read_result(example.everything()), read_result(example.result()))
    (tmp_path / "results.json").write_text(to_json(results))
    assert read_results(tmp_path / "results.json") == results
    (tmp_path / "one.json").write_text(json.dumps(example.result()))
    assert read_results(tmp_path / "one.json") == results[1:]


def test_optional_sections_are_empty():
    found = read_result(example.result())
    assert (found.ttft, found.slo, found.timeline, found.cost) == ((), (), (), ())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value.pop("model"), r"result: \['model'\] missing"),
        (lambda value: value["rows"][1].pop("kl"), r"result.rows\[1\]: \['kl'\] missing"),
        (lambda value: value.update(ttfts=[]), r"result: unknown \['ttfts'\]"),
        (lambda value: value["rows"][0].update(n=1.5), r"rows\[0\].n: expected an integer, got"),
        (lambda value: value["rows"][0].update(kl=True), r"rows\[0\].kl: expected a number, got"),
        (lambda value: value["rows"][0].update(kl=float("nan")), r"rows\[0\].kl: expected a num"),
        (lambda value: value["rows"][0].update(kl_interval=[1]), r"kl_interval: expected 2 numb"),
        (lambda value: value["rows"][0].update(top1=97), r"top1: expected a share from 0 to 1"),
        (lambda value: value["rows"][0].update(score=80), r"score: expected a share from 0 to 1"),
        (lambda value: value["rows"][0].update(bits_per_value=0), r"expected more than 0"),
        (lambda value: value.update(rows={}), r"result.rows: expected a list"),
        (lambda value: value.update(versions=[]), r"result.versions: expected an object"),
        (lambda value: value["slo"][0].update(met=50), r"slo\[0\].met: expected a share"),
    ],
)
def test_it_says_what_is_wrong(change: Callable[[dict[str, Any]], object], message: str):
    value = example.everything()
    change(value)
    with pytest.raises(ValueError, match=message):
        read_result(value)


def test_what_could_not_be_read_is_not_written():
    found = read_result(example.result())
    broken = replace(found, rows=(replace(found.rows[0], kl=float("inf")),))
    with pytest.raises(ValueError, match=r"result.rows\[0\].kl: expected a number"):
        to_json([broken])


def test_a_file_of_something_else(tmp_path):
    (tmp_path / "results.json").write_text("no JSON")
    with pytest.raises(ValueError, match="expected JSON"):
        read_results(tmp_path / "results.json")
