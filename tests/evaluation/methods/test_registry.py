from dataclasses import replace

import pytest
import torch

from cachegen.engines.transformers import capture
from cachegen.evaluation.gate import check
from cachegen.evaluation.methods.registry import METHODS, MethodContext, MethodFailed, make
from cachegen.evaluation.methods.zeroed import broken_coder
from tests.evaluation.methods.caches import text

WITHOUT_PROFILE = [name for name, method in METHODS.items() if "profile" not in method.needs]
FEW = {"uniform": ["4", "8"], "kivi": ["4", "2"], "h2o": ["0.5"], "text": ["all"]}


@pytest.fixture(scope="module")
def tokens():
    return text(300, 9)


@pytest.fixture(scope="module")
def kv(context, tokens):
    return capture(context.model, tokens)


@pytest.mark.parametrize("name", WITHOUT_PROFILE)
def test_every_point_passes_the_gate(context, kv, tokens, name):
    quick = list(make([name], context, quick=True))
    assert quick
    assert {coder.method for coder in quick} == {name}
    for coder in quick:
        check(coder, kv, tokens)


@pytest.mark.parametrize("name", sorted(set(WITHOUT_PROFILE) - {"kvtc", "paper"}))
def test_quick_points_are_some_of_all(context, name):
    every = [coder.level for coder in make([name], context)]
    quick = [coder.level for coder in make([name], context, quick=True)]
    assert len(set(every)) == len(every)
    assert set(quick) <= set(every)
    assert quick == FEW.get(name, quick)


def test_levels_of_a_profile(context, kv, tokens, make_transform_profile):
    steps = {"low": 0.5, "high": 0.25, "highest": 0.1}
    profile = make_transform_profile(kv, rope=context.rope, steps=steps)
    own = replace(context, profile=profile)
    assert [coder.level for coder in make(["cachegen"], own)] == ["low", "high", "highest"]
    (broken,) = make(["broken"], own)
    assert (broken.method, broken.level) == ("broken", profile.default_level)


def test_broken_differs_by_the_values_of_one_layer(context, kv, tokens):
    (whole,) = (coder for coder in make(["adaptive"], context) if coder.level == "high")
    broken = broken_coder(whole)
    data = broken.encode(kv, tokens)
    assert data == whole.encode(kv, tokens)
    pairs = zip(
        broken.decode(data, tokens).planes(), whole.decode(data, tokens).planes(), strict=True
    )
    same = [torch.equal(*pair) for pair in pairs]
    assert same == [True, True, True, False]
    assert not broken.decode(data, tokens).values[1].any()


def test_coders_are_made_when_they_are_asked_for(context):
    found = make(["raw", "cachegen"], context)
    assert next(found).method == "raw"
    with pytest.raises(MethodFailed, match="method cachegen: expected a profile"):
        next(found)


def test_texts_are_prefilled_once_and_late(context, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "cachegen.evaluation.methods.registry.capture",
        lambda model, ids: calls.append(ids) or capture(model, ids),
    )
    fresh = replace(context)
    next(make(["kivi"], fresh))
    assert calls == []
    assert fresh.learned() is fresh.learned()
    assert calls == list(context.texts)


def test_methods_that_learn_need_texts(context):
    bare = MethodContext(context.model, context.geometry, context.rope)
    for name in ("kvtc", "kvserve", "paper"):
        with pytest.raises(MethodFailed, match=f"method {name}: expected calibration texts"):
            next(make([name], bare))


def test_unknown_methods_are_named(context):
    with pytest.raises(ValueError, match="got zip"):
        make(["raw", "zip"], context)


def test_every_rival_names_its_source():
    ours = {"cachegen", "adaptive", "lossless", "raw", "text", "broken"}
    assert {name for name, method in METHODS.items() if not method.source} == ours
