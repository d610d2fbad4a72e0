"""What was measured is there again, whole lines only, and of the same inputs only."""

import json

import pytest

from cachegen.evaluation.judge import Outcome
from cachegen.evaluation.outcomes import Key, Outcomes

INPUTS = {"model": "abc", "seed": 0, "versions": {"torch": "2"}}
ONE = Outcome(10, 100, 1 / 3, None, 0.5, 7, 1.0, 0.0)
OTHER = Outcome(20, 100, 1e-9, -0.25, 1.0, 9, None, None)
KEYS = Key("raw", "", "novel", "000"), Key("kvtc", "0.5", "novel", "001")


def test_outcomes_come_back_exactly(tmp_path):
    made = Outcomes(tmp_path / "outcomes.jsonl", INPUTS)
    for key, outcome in zip(KEYS, (ONE, OTHER), strict=True):
        made.add(key, outcome)
    again = Outcomes(tmp_path / "outcomes.jsonl", INPUTS)
    assert again.found == dict(zip(KEYS, (ONE, OTHER), strict=True)) == made.found


@pytest.mark.parametrize("cut", (1, 20))
def test_a_line_that_was_cut_off_is_measured_again(tmp_path, cut):
    path = tmp_path / "outcomes.jsonl"
    made = Outcomes(path, INPUTS)
    for key in KEYS:
        made.add(key, ONE)
    path.write_bytes(path.read_bytes()[:-cut])
    again = Outcomes(path, INPUTS)
    assert list(again.found) == [KEYS[0]]
    again.add(KEYS[1], OTHER)
    assert Outcomes(path, INPUTS).found == {KEYS[0]: ONE, KEYS[1]: OTHER}


def test_a_file_without_a_whole_line_is_begun_anew(tmp_path):
    path = tmp_path / "outcomes.jsonl"
    path.write_text('{"format": "cachegen-outco')
    made = Outcomes(path, INPUTS)
    made.add(KEYS[0], ONE)
    assert Outcomes(path, INPUTS).found == {KEYS[0]: ONE}


@pytest.mark.parametrize("changed", ({"seed": 1}, {"model": "abd"}, {"more": 2}))
def test_outcomes_of_other_inputs_are_refused(tmp_path, changed):
    path = tmp_path / "outcomes.jsonl"
    Outcomes(path, INPUTS).add(KEYS[0], ONE)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"got another {next(iter(changed))}; name another --out"):
        Outcomes(path, INPUTS | changed)
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", ("hello\n", "{}\n", '["format"]\n', "\n"))
def test_other_files_are_refused_and_stay(tmp_path, text):
    path = tmp_path / "outcomes.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match="expected outcomes of an evaluation in"):
        Outcomes(path, INPUTS)
    assert path.read_text() == text


def test_a_line_that_is_none_is_named(tmp_path):
    path = tmp_path / "outcomes.jsonl"
    Outcomes(path, INPUTS).add(KEYS[0], ONE)
    with path.open("a") as file:
        file.write(json.dumps({"method": "raw"}) + "\n")
    with pytest.raises(ValueError, match=r"outcomes\.jsonl, line 3: no outcome: KeyError"):
        Outcomes(path, INPUTS)
