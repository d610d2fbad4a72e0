"""Every architecture comes out at least as well as expected.json says: `make test-zoo`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

HERE = Path(__file__).parent
ROOT = HERE.parents[3]
RUN = [sys.executable, "-m", "tests.engines.transformers.zoo.run"]
BEST_FIRST = ("exact", "close", "refused", "not built", "wrong")
EXPECTED = json.loads((HERE / "expected.json").read_text())
REWRITE = f"run {' '.join(['.venv/bin/python', *RUN[1:], '--write'])} and look at what changed"


@pytest.fixture(scope="module")
def found(request, tmp_path_factory):
    """The outcomes of all architectures that are asked for, by name."""
    names = [item.callspec.params["name"] for item in request.session.items if "[" in item.name]
    results = tmp_path_factory.mktemp("zoo") / "results.json"
    subprocess.run([*RUN, "--results", str(results), *names], cwd=ROOT, check=True)
    return {outcome["name"]: outcome for outcome in json.loads(results.read_text())}


@pytest.mark.parametrize("name", EXPECTED)
def test_no_worse_than_expected(found, name):
    """Outcome and, once one is known, rotation."""
    outcome, rotation, _ = EXPECTED[name]
    allowed = BEST_FIRST[: BEST_FIRST.index(outcome) + 1]
    assert found[name]["outcome"] in allowed, f"{found[name]['note']}; {REWRITE}"
    if " of " in rotation:
        assert found[name]["rotation"] == rotation, REWRITE


def test_no_model_type_is_left_out():
    listed = json.loads(subprocess.run([*RUN, "--list"], cwd=ROOT, capture_output=True).stdout)
    missing = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - set(listed)
    assert not missing, f"add {sorted(missing)} to architectures.py"
    assert set(EXPECTED) == set(listed), REWRITE


def test_the_table_says_what_is_expected():
    table = (ROOT / "docs" / "architectures.md").read_text()
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| `")]
    said = {row[0].strip("|` "): (row[4], row[3]) for row in rows}
    assert said == {name: (entry[0], entry[1]) for name, entry in EXPECTED.items()}, REWRITE
