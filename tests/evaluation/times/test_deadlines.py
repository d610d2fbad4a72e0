"""Deadlines met: all policies on the same links, judged by the same deadlines."""

import pytest

from cachegen import read_profile, refmodel
from cachegen.engines.transformers import capture
from cachegen.evaluation.methods.presets import profile_coder
from cachegen.evaluation.methods.uniform import uniform_coders
from cachegen.evaluation.results import Row
from cachegen.evaluation.times.costs import measured
from cachegen.evaluation.times.deadlines import Deadlines, deadlines_met, kl_of_levels
from cachegen.policy.controller import Option
from cachegen.policy.costs import Costs, DecodeCost, PrefillCost
from cachegen.simulation.scenario import Chunk, Context
from cachegen.simulation.varying import Machine

KL = {"low": 0.02, "high": 0.002, "packed": 0.0001, "raw": 0.0}
SIZES = {"low": 1_000, "high": 4_000, "packed": 60_000, "raw": 120_000}
FEW = Deadlines(loads=5, shares=(0.2, 1.1))


@pytest.fixture(scope="module")
def machine() -> Machine:
    options = tuple(Option(name, size, rank) for rank, (name, size) in enumerate(SIZES.items()))
    chunks = tuple(Chunk(start, start + 500, options) for start in range(0, 2000, 500))
    decode = {name: DecodeCost(0.001) for name in SIZES}
    return Machine("made", Context(chunks, 1), Costs(PrefillCost(0.0, 0.001), decode, 0.001))


@pytest.fixture(scope="module")
def rows(machine):
    return list(deadlines_met(machine, FEW, default="high", kl=KL, seed=0))


def test_every_policy_has_every_deadline_on_every_kind_of_link(rows):
    policies = {row.policy for row in rows}
    assert policies == {
        "cachegen adaptive", "algorithm 1 (paper)", "cachegen high", "8-bit", "text"
    }  # fmt: skip
    assert len(rows) == len({row.trace for row in rows}) * 2 * 5
    assert {row.n for row in rows} == {5}
    assert {round(row.deadline_s, 6) for row in rows} == {0.4, 2.2}


def test_computing_meets_what_is_longer_than_computing_and_nothing_else(rows):
    for row in rows:
        if row.policy == "text":
            assert (row.met, row.mean_kl) == (float(row.deadline_s > 2.0), 0.0)


def test_ours_meets_most_and_fixed_levels_keep_their_quality(rows):
    met = {name: sum(row.met for row in rows if row.policy == name) for name in
           ("cachegen adaptive", "cachegen high", "8-bit", "text")}  # fmt: skip
    assert met["cachegen adaptive"] == max(met.values()) > met["8-bit"]
    kept = {row.mean_kl for row in rows if row.policy == "8-bit"}
    assert sorted(kept) == pytest.approx([KL["packed"]] * len(kept))


def test_equal_seeds_give_equal_rows(machine, rows):
    again = list(deadlines_met(machine, FEW, default="high", kl=KL, seed=0))
    assert again == rows


def test_a_level_of_unknown_quality_leaves_the_mean_out(machine):
    known = {name: kl for name, kl in KL.items() if name != "packed"}
    found = deadlines_met(machine, FEW, default="high", kl=known, seed=0)
    assert {row.mean_kl for row in found if row.policy == "8-bit"} == {None}


def test_quality_is_of_this_run_where_it_was_measured():
    profile = read_profile(refmodel.profile_path())
    rows = [
        Row("cachegen", "high", dataset, 100, 0.5, kl, 1.0, 2)
        for dataset, kl in (("a", 0.001), ("b", 0.003))
    ]
    found = kl_of_levels(rows, profile)
    assert found["high"] == pytest.approx(0.002) and found["raw"] == 0.0
    assert found["low"] == next(one.quality.kl for one in profile.levels if one.name == "low")
    assert "packed" not in found
    eight = Row("uniform", "8", "a", 100, 8.5, 0.0001, 1.0, 2)
    assert kl_of_levels([*rows, eight], profile)["packed"] == 0.0001


def test_eight_bits_are_the_numbers_of_the_uniform_coder(models):
    """So that its KL may stand for that of level `packed`."""
    from cachegen import decode, encode

    tokens = list(range(5, 105))
    kv = capture(models.writer, tokens)
    eight = next(one for one in uniform_coders(kv.geometry) if one.level == "8")
    one, other = eight.roundtrip(kv, tokens), decode(encode(kv, level="packed"))
    assert all(a.equal(b) for a, b in zip(one.planes(), other.planes(), strict=True))


def test_costs_are_measured_and_sizes_are_real(models):
    profile = read_profile(refmodel.profile_path())
    ids = models.tokenizer(refmodel.load_text("heldout-craik"), verbose=False).input_ids[:640]
    kv = capture(models.writer, ids)
    found = measured(models, profile, kv, ids, runs=1)
    names = [level.name for level in profile.levels]
    assert [(chunk.start, chunk.stop) for chunk in found.context.chunks] == [(0, 512), (512, 640)]
    for chunk in found.context.chunks:
        sizes = {option.level: option.size_bytes for option in chunk.options}
        assert list(sizes) == [*names, "packed", "raw"]
        part = kv.slice(chunk.start, chunk.stop)
        coder = profile_coder("cachegen", profile, "high")
        expected = len(coder.encode(part, ids[chunk.start : chunk.stop]))
        assert sizes["high"] == pytest.approx(expected, rel=0.02)
    assert found.costs.prefill.seconds(640) > 0 and found.text_s > 0
    assert all(found.costs.decode_s(name, 512) > 0 for name in (*names, "packed", "raw"))


def test_a_model_without_a_profile_has_costs_too(models):
    tokens = list(range(5, 205))
    found = measured(models, None, capture(models.writer, tokens), tokens, runs=1)
    levels = [option.level for option in found.context.chunks[0].options]
    assert levels == ["high", "packed", "raw"] and found.break_even_mbit_s > 0
