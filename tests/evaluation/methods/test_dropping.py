import numpy as np
import pytest
import torch

from cachegen.engines.transformers import capture
from cachegen.evaluation.methods.attention import from_last, received
from cachegen.evaluation.methods.dropping import (
    h2o_coders,
    h2o_scores,
    heavy_and_recent,
    kept,
    seen_and_window,
    snapkv_coders,
    snapkv_scores,
)
from cachegen.kvcache import KVCache
from tests.evaluation.methods.caches import HEADS, bits, error, make_cache, text

SCORES = {"h2o": h2o_scores, "snapkv": snapkv_scores}
CODERS = {"h2o": h2o_coders, "snapkv": snapkv_coders}


def whole_attention(model, tokens) -> list[torch.Tensor]:
    """Of every layer (kv heads, queries, tokens), by one pass of the model."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        found = model(torch.tensor([tokens]), output_attentions=True).attentions
    model.set_attn_implementation(before)
    shared = model.config.num_key_value_heads
    return [layer[0].reshape(shared, -1, *layer.shape[2:]).mean(dim=1) for layer in found]


@pytest.mark.parametrize("heads", HEADS)
def test_attention_in_pieces_is_that_of_one_pass(tiny, heads, monkeypatch):
    monkeypatch.setattr("cachegen.evaluation.methods.attention._MOST_WEIGHTS", 90 * 17)
    model, tokens = tiny(heads), text(90, 3)
    before = model.config._attn_implementation
    for true, found in zip(whole_attention(model, tokens), received(model, tokens), strict=True):
        assert torch.allclose(true.sum(dim=1), found, atol=1e-4)
        assert float(found.sum()) == pytest.approx(90 * len(found), rel=1e-4)
    last = from_last(model, tokens, window=40)
    for true, found in zip(whole_attention(model, tokens), last, strict=True):
        assert torch.allclose(true[:, -40:], found, atol=1e-5)
    assert model.config._attn_implementation == before


def test_the_models_own_attention_comes_back_after_an_error(tiny):
    model = tiny("gqa")
    before = model.config._attn_implementation
    with pytest.raises(IndexError):
        received(model, [10**6])
    assert model.config._attn_implementation == before


def test_rules():
    scores = torch.tensor([[9.0, 1, 8, 2, 7, 3, 0, 0], [0.0, 0, 0, 5, 0, 6, 9, 9]])
    assert heavy_and_recent(scores, 4).tolist() == [
        [True, False, True, False, False, False, True, True],
        [False, False, False, True, False, True, True, True],
    ]
    peaks = torch.tensor([[0.0, 0, 0, 9, 0, 0, 0, 8, 8, 0, 0, 0, 5, 5, 5, 5]])
    # Sums over 5 of the first 12: 0 9 9 9 9 17 16 16 16 16 8 0.
    assert seen_and_window(peaks, 8)[0].nonzero()[:, 0].tolist() == [5, 6, 7, 8, 12, 13, 14, 15]
    many = torch.arange(200.0).flip(0)[None]
    found = seen_and_window(many, 150)[0]
    assert found[:86].all() and found[-64:].all() and int(found.sum()) == 150
    assert int(seen_and_window(many, 10)[0, -5:].sum()) == 5
    assert int(seen_and_window(many, 1)[0].sum()) == 1


@pytest.mark.parametrize("method", CODERS)
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16), ids=str)
def test_kept_rows_are_those_of_the_cache_in_order(tiny, method, heads, dtype):
    model, tokens = tiny(heads, dtype), text(101, 4)
    kv = capture(model, tokens)
    coders = CODERS[method](SCORES[method](model), kv.geometry, shares=(1.0, 0.5, 0.1))
    for coder in coders:
        data = coder.encode(kv, tokens)
        found = coder.decode(data, tokens)
        count = round(float(coder.level) * 101)
        assert (found.geometry, found.start, found.num_tokens) == (kv.geometry, 0, count)
        shared = HEADS[heads][1]
        assert len(data) == found.size_bytes + -(-2 * shared * 101 // 8)
        for layer in range(2):
            for head in range(shared):
                pairs = ((kv.keys, found.keys), (kv.values, found.values))
                key, value = (places(a[layer][head], b[layer][head]) for a, b in pairs)
                assert key == value == sorted(set(key))
                assert key[-1] == 100


def places(whole: torch.Tensor, few: torch.Tensor) -> list[int]:
    """Which row of the whole each is."""
    same = (whole[None] == few[:, None]).all(dim=2)
    assert same.any(dim=1).all()
    return same.int().argmax(dim=1).tolist()


@pytest.mark.parametrize("method", CODERS)
def test_ours_codes_what_the_method_keeps(tiny, method):
    model, tokens = tiny("gqa", torch.bfloat16), text(200, 5)
    kv, scores = capture(model, tokens), SCORES[method](model)
    (plain,) = CODERS[method](scores, kv.geometry, shares=(0.5,))
    (ours,) = CODERS[method](scores, kv.geometry, shares=(0.5,), ours=True)
    assert (ours.method, ours.level) == (f"{method}+ours", "0.5")
    data = ours.encode(kv, tokens)
    assert len(data) < 0.6 * len(plain.encode(kv, tokens))
    assert error(plain.roundtrip(kv, tokens), ours.decode(data, tokens)) < 0.02


def test_what_a_model_attends_to_is_kept(tiny):
    """Heads of the largest scores: the sum over what is left is the largest that any choice has."""
    model, tokens = tiny("gqa"), text(60, 6)
    (coder,) = h2o_coders(h2o_scores(model), capture(model, tokens).geometry, shares=(0.5,))
    kv = capture(model, tokens)
    found = coder.roundtrip(kv, tokens)
    scores = received(model, tokens)[0][0]
    rows = places(kv.keys[0][0], found.keys[0][0])
    heavy = [row for row in rows if row < 45]
    assert float(scores[heavy].sum()) == pytest.approx(float(scores[:45].topk(15).values.sum()))


def test_masks_keep_rows():
    plane = torch.arange(12.0).view(2, 3, 2)
    kv = KVCache.from_layers([(plane, plane)])
    mask = torch.tensor([[True, False, True], [False, True, True]])
    found = kept(kv, [mask])
    assert bits(found)[0] == np.float32([[0, 1], [4, 5], [8, 9], [10, 11]]).tobytes()


def test_other_heads_of_values_are_refused():
    kv = make_cache("mqa", 3, torch.float32)
    wide = KVCache.from_layers([(kv.keys[0], kv.values[0].repeat(2, 1, 1))])
    with pytest.raises(ValueError, match="as many heads"):
        list(h2o_coders(lambda tokens: [], wide.geometry))
