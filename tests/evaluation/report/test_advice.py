import pytest

from cachegen.evaluation.report.advice import advice, score_drop
from cachegen.evaluation.results_json import read_result
from tests.evaluation.report import example


def said(**more):
    return " ".join(advice(read_result(example.result(**more))))


def with_summary(**more):
    return said(summary=example.result()["summary"] | more)


def test_it_says_level_size_and_quality():
    text = said()
    assert "The default level, high, stores a cache in 0.5 bits per value, 32× smaller" in text  # noqa: RUF001
    assert (
        "KL of 0.002 nats per token, each in its worst dataset; without any coding KL is 0.00001"
        in text
    )
    assert "KVTC" not in text and "KVServe" not in text
    assert "Decoding took 1.2% of the prefill's time" in text


def test_others_are_compared_dataset_by_dataset_and_the_least_ratio_is_said():
    """Ours takes 0.5 bits at KL 0.002; theirs 2.5 on topics, 4 on articles."""
    topics = example.row("kvtc", "3", "topics", 2.5, 0.002)
    articles = example.row("kvtc", "3", "articles", 4.0, 0.002)
    text = said(rows=[*example.result()["rows"], topics, articles])
    assert "a coder in the style of KVTC takes at least 5× the bytes" in text  # noqa: RUF001
    text = said(rows=[*example.result()["rows"], articles])
    assert "a coder in the style of KVTC takes at least 8× the bytes" in text  # noqa: RUF001


def test_a_loss_that_may_be_chance_is_not_called_one():
    text = with_summary(score_drop_interval=[-0.01, 0.05])
    assert "fell by 2 points of 100 over 20 questions" in text
    assert "this run shows no loss, and cannot rule out one of up to 5 points" in text


def test_a_loss_is_called_one():
    text = with_summary(score_drop_interval=[0.01, 0.05])
    assert "a loss that this run can tell from chance" in text
    assert "take a finer level" in text and "Start with" not in text


def test_a_broken_promise_is_said():
    text = with_summary(default_kl=0.01)
    assert "that KL is above the promise" in text and "Start with" not in text


def test_intervals_of_scores_stand_in_for_those_of_pairs():
    drop = score_drop(read_result(example.result()))
    assert drop is not None and not drop.is_paired
    assert drop.span == pytest.approx((-0.08, 0.12))
    assert drop.n == 20


def test_no_question_no_score():
    rows = [one for one in example.result()["rows"] if one["dataset"] == "articles"]
    text = said(rows=rows, summary=example.result()["summary"] | {"score_drop": None})
    assert "No dataset of this run asks questions" in text


def times(*ours):
    """Ours over links of 5, 50 and 500 Mbit/s, where prefill takes 2 s."""
    rates = (5.0, 50.0, 500.0)
    texts = [example.time("text", rate, 2.0) for rate in rates]
    own = [example.time("cachegen", r, s) for r, s in zip(rates, ours, strict=True)]
    return said(ttft=texts + own)


def test_where_loading_beats_prefill():
    text = times(2.1, 1.9, 0.1)
    assert (
        "With 4,096 tokens and one request at a time, loading at level adaptive beat prefill at "
        "500 Mbit/s, was about as fast at 50 Mbit/s and was slower at 5 Mbit/s." in text
    )
    assert "let the loader recompute" in text


def test_at_every_link():
    text = times(1.0, 0.5, 0.1)
    assert "beat prefill at all 3 links from 5 Mbit/s to 500 Mbit/s." in text
    assert "at no measured link was prefill faster" in text


def test_at_none():
    assert "not clearly faster than prefill at any of 3 links" in times(3.0, 3.0, 3.0)
