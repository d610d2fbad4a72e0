"""Steps at the default level's KL: between real points, searched from anywhere, measured once."""

import json

import pytest

from cachegen import read_profile, refmodel
from cachegen.engines.transformers import capture, rope_map
from cachegen.evaluation.coder import Coder
from cachegen.evaluation.methods import exact, uniform
from cachegen.evaluation.methods.presets import profile_coder
from cachegen.evaluation.methods.registry import OURS, MethodContext
from cachegen.evaluation.outcomes import Outcomes
from cachegen.evaluation.run import Run
from cachegen.evaluation.sections.ablation import Part, ablation, parts_of
from tests.evaluation.methods.caches import error

DEFAULT = (OURS, "high")


@pytest.fixture(scope="module")
def profile():
    return read_profile(refmodel.profile_path())


@pytest.fixture(scope="module")
def geometry(models):
    return capture(models.writer, [0]).geometry


@pytest.fixture
def run(models, profile, tmp_path):
    return Run(models, [profile_coder(*DEFAULT[:1], profile, "high")], outcomes(tmp_path), print)


def outcomes(folder):
    return Outcomes(folder / "outcomes.jsonl", {"seed": 0})


def failing(kv, tokens):
    raise RuntimeError("no such luck")


@pytest.mark.parametrize("start", (0, 4))
def test_bits_lie_between_the_points_on_both_sides(run, geometry, reading, start):
    coders = uniform.uniform_coders(geometry)
    step, own = ablation(run, [Part("grids", coders, start)], [reading], default=DEFAULT)
    assert (step.step, own.step) == ("grids", "the model's profile: high")
    assert step.kl == own.kl and own.bits_per_value < 1 < step.bits_per_value
    known = {key.level: one for key, one in run.outcomes.found.items() if key.method == "uniform"}
    bits = {level: 8 * one.num_bytes / one.num_values for level, one in known.items()}
    better = min(bits[level] for level in known if known[level].kl <= own.kl)
    worse = max(bits[level] for level in known if known[level].kl >= own.kl)
    assert worse <= step.bits_per_value <= better


def test_what_does_not_get_there_is_noted_and_the_others_go_on(run, geometry, reading):
    raw = exact.raw_coder(geometry)
    parts = [
        Part("exact alone", [raw]),
        Part("breaks", [Coder("breaks", "1", failing, raw.decode)]),
        Part("grids", uniform.uniform_coders(geometry)),
    ]
    steps = ablation(run, parts, [reading], default=DEFAULT)
    assert [one.step for one in steps] == ["grids", "the model's profile: high"]
    failed = {(one.method, one.level): one.reason for one in run.failures}
    assert "no such luck" in failed["breaks", "1"]
    assert "both sides of a KL" in failed["ablation", "exact alone"]


def test_nothing_is_measured_twice(run, models, geometry, reading, tmp_path, monkeypatch):
    parts = [Part("grids", uniform.uniform_coders(geometry), 4)]
    first = ablation(run, parts, [reading], default=DEFAULT)
    monkeypatch.setattr("cachegen.evaluation.run.prepare", lambda *_: 1 / 0)
    again = Run(models, run.coders, outcomes(tmp_path), print)
    assert ablation(again, parts, [reading], default=DEFAULT) == first
    lines = (tmp_path / "outcomes.jsonl").read_text().splitlines()[1:]
    keys = [tuple(json.loads(line)[name] for name in ("method", "level", "case")) for line in lines]
    assert len(keys) == len(set(keys))


def test_without_the_default_level_there_is_nothing_to_hold_against(models, geometry, reading, run):
    bare = Run(models, [], run.outcomes, print)
    assert (
        ablation(bare, [Part("a", uniform.uniform_coders(geometry))], [reading], default=DEFAULT)
        == []
    )


def test_the_path_has_what_can_be_made(models, geometry):
    texts = [tuple(range(5, 205))]
    context = MethodContext(models.writer, geometry, rope_map(models.writer), texts)
    names = [part.step for part in parts_of(context, [])]
    assert len(names) == 5 and names[0] == "a grid for each vector"
    fewer = [
        part.step for part in parts_of(MethodContext(models.writer, geometry, context.rope), [])
    ]
    assert fewer == [names[0], names[-1]]
    parts = {part.step: part for part in parts_of(context, [])}
    assert all(0 <= part.start < len(part.coders) for part in parts.values())
    plain = parts["no deltas, no rotations: plain"]
    kv = capture(models.writer, texts[0])
    coder = plain.coders[plain.start]
    assert coder.level == "step-0_35" and 0 < error(kv, coder.roundtrip(kv, texts[0])) < 0.1
