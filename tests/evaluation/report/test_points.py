import pytest

from cachegen.evaluation.methods import registry
from cachegen.evaluation.report import findings
from cachegen.evaluation.report.points import (
    OURS,
    better_than_ours,
    left_out,
    mean_default,
    ours,
    pooled,
)
from cachegen.evaluation.results_json import read_result
from tests.evaluation.report import example


def with_rows(*more):
    return read_result(example.result(rows=[*example.result()["rows"], *more]))


def test_datasets_count_the_same():
    rows = [
        example.row("cachegen", "high", "topics", 0.4, 0.001),
        example.row("cachegen", "high", "articles", 0.6, 0.003),
    ]
    (point,) = pooled(read_result(example.result(rows=rows)))["cachegen"]
    assert (point.bits, point.kl, point.n) == pytest.approx((0.5, 0.002, 32))
    assert point.smaller == pytest.approx(32)
    assert mean_default(read_result(example.result(rows=rows))) == point
    assert mean_default(read_result(example.result(rows=[]))) is None


def test_a_point_that_lacks_a_dataset_is_left_out_and_named():
    result = with_rows(example.row("kivi", "2", "topics", 2.5, 0.1))
    assert "kivi" not in pooled(result)
    assert left_out(result) == ("kivi 2",)
    assert "kivi 2" in " ".join(findings.quality(result))


def test_points_that_are_better_than_ours_are_named():
    assert better_than_ours(with_rows(), most_kl=0.01) == ()
    assert "No point of another method" in " ".join(findings.quality(with_rows()))
    clear = example.row("kivi", "2", "topics", 0.6, 0.0001, kl_interval=[0.00005, 0.0002])
    close = example.row("h2o", "1", "topics", 0.6, 0.001, kl_interval=[0.0005, 0.01])
    found = better_than_ours(with_rows(clear, close), most_kl=0.01)
    assert [(one.point.method, one.is_clear) for one in found] == [("kivi", True), ("h2o", False)]
    text = " ".join(findings.quality(with_rows(clear, close)))
    assert "kivi 2 on topics is clearly better than ours: KL 0.0001 at 0.6 bits" in text
    assert "less than the interval of their KL: h2o 1 on topics" in text


def test_what_follows_a_context_is_told_apart():
    asked = example.row("cachegen", "high", "topics", 0.5, 0.004)
    text = " ".join(findings.quality(with_rows(asked)))
    assert "KL 0.002 where a text goes on" in text
    assert "0.002 to 0.004 where an answer is scored" in text
    rows = [one for one in example.result()["rows"] if one["dataset"] == "topics"]
    assert "goes on" not in " ".join(findings.quality(read_result(example.result(rows=rows))))


def test_levels_that_need_no_profile_count_and_nothing_between_levels_does():
    """Ours are 0.5 bits at KL 0.002, 0.8 at 0.0008 and, without a profile, 3 at 0.0003."""
    adaptive = example.row("adaptive", "high", "topics", 3.0, 0.0003)
    larger = example.row("kivi", "4", "topics", 3.5, 0.0004)
    between = example.row("kivi", "2", "topics", 0.75, 0.0019)
    smaller = example.row("kivi", "1", "topics", 0.01, 0.009)
    found = better_than_ours(with_rows(adaptive, larger, between, smaller), most_kl=0.01)
    assert [(one.point.level, one.our_kl) for one in found] == [("2", 0.002), ("1", None)]
    text = " ".join(findings.quality(with_rows(adaptive, smaller)))
    assert "kivi 1 on topics" in text and "where none of our levels is as small" in text


def test_a_dataset_without_a_level_of_ours_is_not_compared():
    rows = [one for one in example.result()["rows"] if one["dataset"] == "topics"]
    rows.append(example.row("kvtc", "2", "articles", 2.0, 0.001))
    assert better_than_ours(read_result(example.result(rows=rows)), most_kl=0.01) == ()


def test_more_datasets_than_the_default_level_has_are_no_hindrance():
    rows = [
        one
        for one in example.result()["rows"]
        if one["dataset"] == "topics" or one["method"] == "kvtc"
    ]
    result = read_result(example.result(rows=rows))
    assert left_out(result) == ()
    assert {one.n for one in pooled(result)["kvtc"]} == {example.DATASETS["topics"]}


def test_gains_at_both_ends_of_the_links():
    text = " ".join(findings.ttft(read_result(example.everything())))
    assert "ours had the lowest median at 2 of 3 links; lower was text at 5 Mbit/s" in text
    # Ours takes 10 / rate + 0.1 seconds, text 2.
    assert "0.95× at 5 Mbit/s and 17× at 500 Mbit/s of our time" in text  # noqa: RUF001
    assert "prefill was faster over at least one link for contexts of 4,096 tokens" in text


@pytest.mark.parametrize("method", ["text", "adaptive", "lossless", "h2o+ours"])
def test_what_is_ours_or_no_cache_is_not_compared(method):
    one = example.row(method, "1", "topics", 0.6, 0.0)
    assert better_than_ours(with_rows(one), most_kl=0.01) == ()


def test_our_name_is_the_evaluation_s():
    assert OURS[0] == registry.OURS and set(OURS) <= set(registry.METHODS)


def test_without_a_profile_the_levels_that_need_none_are_ours():
    rows = [example.row("adaptive", "high", "topics", 3.0, 0.0005)]
    result = read_result(example.result(rows=rows))
    assert ours(result) == "adaptive"
    assert ours(read_result(example.result(rows=[]))) == ""


def test_a_model_that_cannot_answer_is_said():
    rows = [example.row("cachegen", "high", "topics", 0.5, 0.002, score_uncompressed=0.05)]
    assert "hardly solves topics (5%)" in " ".join(
        findings.limits(read_result(example.result(rows=rows)))
    )
