import csv

import pytest

from cachegen.evaluation.report import write_report
from cachegen.evaluation.report.tables import SECTIONS
from cachegen.evaluation.results_json import read_result, read_results
from tests.evaluation.report import example


def test_all_files_hold_what_was_found(tmp_path):
    results = [read_result(example.everything()), read_result(example.result("Other-2M"))]
    path = write_report(results, tmp_path / "new" / "report")
    assert path.name == "report.html" and path.read_text().startswith("<!doctype html>")
    assert read_results(path.parent / "results.json") == tuple(results)
    for section in SECTIONS:
        with (path.parent / f"{section}.csv").open(newline="") as file:
            lines = list(csv.DictReader(file))
        expected = [one for result in results for one in getattr(result, section)]
        assert len(lines) == len(expected)
        for line, one in zip(lines, expected, strict=True):
            assert line["commit"] == "0123456789ab" and line["command"].startswith("cachegen eval")
            for name in type(one).__slots__:
                if name.endswith("_interval"):
                    ends = getattr(one, name) or ("", "")
                    assert (line[f"{name}_low"], line[f"{name}_high"]) == tuple(map(str, ends))
                else:
                    value = getattr(one, name)
                    assert line[name] == ("" if value is None else str(value))


def test_no_result_no_report(tmp_path):
    with pytest.raises(ValueError, match="at least one result"):
        write_report([], tmp_path)


def test_two_reports_of_the_same_are_the_same(tmp_path):
    results = [read_result(example.everything())]
    first, second = (write_report(results, tmp_path / name) for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
