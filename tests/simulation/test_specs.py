import pytest

from cachegen.policy.algorithm1 import Algorithm1
from cachegen.policy.fixed import Fixed
from cachegen.policy.min_ttft import MinTTFT
from cachegen.simulation.specs import parse_policy, parse_trace


def test_policies():
    assert parse_policy("min_ttft").controller == MinTTFT()
    assert parse_policy("algorithm1").controller == Algorithm1()
    assert parse_policy("fixed:low").controller == Fixed("low")
    assert not parse_policy("text").is_stored


@pytest.mark.parametrize("text", ("", "fixed", "fixed:", "fastest"))
def test_other_policies_are_refused(text):
    with pytest.raises(ValueError, match="expected min_ttft, algorithm1, fixed:LEVEL or recompute"):
        parse_policy(text)


def test_made_traces():
    assert parse_trace("constant:80").mean_bytes_per_s == pytest.approx(1e7)
    stepped = parse_trace("step:0.5@8,1@16")
    assert (stepped.durations_s, stepped.bytes_per_s) == ((0.5, 1.0), (1e6, 2e6))
    drawn = parse_trace("random:10-20@0.25", seed=3)
    assert drawn.durations_s[0] == 0.25
    assert all(10 <= rate * 8e-6 <= 20 for rate in drawn.bytes_per_s)
    assert parse_trace("random:10-20@0.25", seed=4) != drawn


def test_traces_by_name_and_by_file(tmp_path):
    assert parse_trace("puffer-1").name == "puffer-1"
    (tmp_path / "mine").write_text("0 8\n1 16\n")
    assert parse_trace(str(tmp_path / "mine")).bytes_per_s == (1e6, 2e6)


@pytest.mark.parametrize(
    "text",
    ("constant:", "constant:0", "step:1", "step:1@x", "random:9", "random:9-1", "random:1-2@0"),
)
def test_made_traces_that_say_nothing_are_refused(text):
    with pytest.raises(ValueError, match="describes no trace"):
        parse_trace(text)


def test_an_unknown_trace_lists_the_shipped_ones():
    with pytest.raises(ValueError, match=r"is no trace.*puffer-1"):
        parse_trace("somewhere")
