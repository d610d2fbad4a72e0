import pytest
import torch

from cachegen.engines.transformers import capture
from cachegen.evaluation.methods.presets import profile_coder
from cachegen.evaluation.methods.prompts import (
    id_bytes,
    llmlingua_coders,
    most_surprising,
    pack_ids,
    self_information,
    surprises_of,
    text_coder,
    unpack_ids,
)
from tests.evaluation.methods.caches import bits, text


def test_text_is_computed_again(tiny):
    model, tokens = tiny("gqa", torch.bfloat16), text(70, 1)
    kv = capture(model, tokens)
    coder = text_coder(model, kv.geometry)
    data = coder.encode(kv, tokens)
    assert len(data) == 2 * 70
    assert bits(coder.decode(data, tokens)) == bits(kv)


def test_a_shorter_text_is_decoded_from_its_bytes_alone(tiny):
    model, tokens = tiny("mqa"), text(100, 2)
    kv = capture(model, tokens)
    for coder in llmlingua_coders(model, kv.geometry, surprises_of(model), shares=(0.5, 0.1)):
        data = coder.encode(kv, tokens)
        ids = unpack_ids(data, 2)
        assert coder.is_shorter_text and len(ids) == 100 * float(coder.level)
        assert tuple(ids[:4]) == tokens[:4]
        assert is_subsequence(ids, tokens)
        assert bits(coder.decode(data, ())) == bits(capture(model, ids))


def test_ours_codes_the_cache_of_the_shorter_text(tiny, make_transform_profile):
    """By a profile that needs the tokens: those of the shorter text, which are stored."""
    model, tokens = tiny("gqa"), text(100, 4)
    kv = capture(model, tokens)
    profile = make_transform_profile(kv, steps={"low": 0.1, "high": 0.05})
    inner = profile_coder("inner", profile, profile.default_level)
    (plain,) = llmlingua_coders(model, kv.geometry, surprises_of(model), shares=(0.5,))
    (ours,) = llmlingua_coders(model, kv.geometry, surprises_of(model), shares=(0.5,), inner=inner)
    assert (ours.method, ours.level, ours.is_shorter_text) == ("llmlingua+ours", "0.5", True)
    ids = unpack_ids(plain.encode(kv, tokens), 2)
    small = capture(model, ids)
    data = ours.encode(kv, tokens)
    assert len(data) == 4 + 2 * 50 + len(inner.encode(small, ids))
    assert bits(ours.decode(data, ())) == bits(inner.roundtrip(small, ids))


def is_subsequence(ids, whole) -> bool:
    left = iter(whole)
    return all(token in left for token in ids)


def test_self_information_is_that_of_one_pass(tiny, monkeypatch):
    monkeypatch.setattr("cachegen.evaluation.methods.prompts._PASS_TOKENS", 16)
    model, tokens = tiny("gqa"), text(50, 3)
    with torch.no_grad():
        likelihood = model(torch.tensor([tokens])).logits[0].log_softmax(dim=-1)
    true = [-float(likelihood[place - 1, tokens[place]]) for place in range(1, 50)]
    found = self_information(model, tokens)
    assert found[0] == torch.inf and found[1:].tolist() == pytest.approx(true, abs=1e-4)


def test_the_most_surprising_and_the_first_are_kept():
    surprises = torch.tensor([torch.inf, 0.0, 0.0, 0.0, 5.0, 1.0, 9.0, 2.0, 9.0, 0.0])
    assert most_surprising(surprises, 0.7) == [0, 1, 2, 3, 4, 6, 8]
    assert most_surprising(surprises, 0.1) == [0, 1, 2, 3]
    assert most_surprising(surprises[:2], 0.5) == [0, 1]


@pytest.mark.parametrize("width", [1, 2, 3])
def test_ids_take_whole_bytes(width):
    ids = [0, 1, 2 ** (8 * width) - 1]
    assert unpack_ids(pack_ids(ids, width), width) == ids
    assert len(pack_ids(ids, width)) == 3 * width


def test_ids_are_as_wide_as_the_vocabulary_needs(tiny):
    assert id_bytes(tiny("gqa")) == 2
