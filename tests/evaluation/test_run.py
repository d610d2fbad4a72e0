"""Every coder on every case; a failure costs its own numbers only, and nothing is done twice."""

import pytest

from cachegen.evaluation.coder import Coder
from cachegen.evaluation.methods import exact, uniform
from cachegen.evaluation.outcomes import Outcomes
from cachegen.evaluation.rows import rows_of
from cachegen.evaluation.run import Run
from cachegen.evaluation.summary import summary_of


@pytest.fixture
def outcomes(tmp_path):
    return Outcomes(tmp_path / "outcomes.jsonl", {"seed": 0})


def failing(kv, tokens):
    raise RuntimeError("no such luck")


@pytest.fixture
def coders(models):
    from cachegen.engines.transformers.cache import capture

    geometry = capture(models.writer, [0]).geometry
    raw = exact.raw_coder(geometry)
    return [
        Coder("breaks", "1", failing, raw.decode),
        raw,
        next(one for one in uniform.uniform_coders(geometry) if one.level == "4"),
        Coder("other", "2", raw.encode, lambda data, tokens: raw.decode(data, tokens).slice(0, 0)),
    ]


def test_failures_are_named_and_the_others_go_on(models, coders, outcomes, asking, reading):
    told = []
    run = Run(models, coders, outcomes, told.append)
    assert list(run.over([asking, reading])) == [1, 2]
    assert {(key.method, key.dataset) for key in outcomes.found} == {
        (coder.method, case.dataset) for coder in coders[1:3] for case in (asking, reading)
    }
    assert [(one.method, one.level) for one in run.failures] == [("breaks", "1"), ("other", "2")]
    assert run.failures[0].reason == "RuntimeError: no such luck"
    assert sum("FAILED" in line for line in told) == 2


def test_what_is_known_is_not_measured_again(models, coders, outcomes, asking, monkeypatch):
    list(Run(models, coders[1:3], outcomes, print).over([asking]))
    monkeypatch.setattr("cachegen.evaluation.run.prepare", failing)
    again = Run(models, coders[1:3], outcomes, print)
    assert list(again.over([asking])) == [1] and not again.failures


def test_rows_are_means_over_a_dataset(models, coders, outcomes, asking, reading):
    list(Run(models, coders[1:3], outcomes, print).over([asking, reading]))
    cases = {"passkey": [asking], "novel": [reading]}
    rows = rows_of(outcomes.found, coders, cases, seed=0)
    by_name = {(row.method, row.dataset): row for row in rows}
    assert list(by_name) == [
        (coder.method, name) for coder in coders[1:3] for name in ("passkey", "novel")
    ]
    raw = by_name["raw", "passkey"]
    assert (raw.bits_per_value, raw.kl, raw.score, raw.rel_ppl) == (16.0, 0.0, 1.0, None)
    assert raw.n == 1 and raw.kl_interval is None and raw.score_uncompressed == 1.0
    four = by_name["uniform", "novel"]
    assert 4 < four.bits_per_value < 5 and four.kl > 0 and four.score is None
    assert four.rel_ppl is not None and four.tokens == len(reading.context)
    summary = summary_of(
        rows, outcomes.found, default=("uniform", "4"), noise_floor=None, speed={}, seed=0
    )
    assert summary.default_bits_per_value == max(
        row.bits_per_value for row in rows if row.method == "uniform"
    )
    assert summary.default_rel_ppl == four.rel_ppl and summary.score_drop is not None
    assert summary.kvtc_bits_at_default_kl is None and summary.int8_bits is None
