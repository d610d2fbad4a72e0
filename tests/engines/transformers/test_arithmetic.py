import pytest
import torch

from cachegen.engines.transformers import arithmetic
from cachegen.engines.transformers.cache import capture
from cachegen.engines.transformers.quality import as_dtype

CPU = torch.device("cpu")


@pytest.mark.parametrize(("took_s", "is_slow"), ((0.9, False), (2.1, True)))
def test_what_takes_more_than_twice_as_long_is_slow(monkeypatch, took_s, is_slow):
    seconds = {torch.float32: 1.0, torch.bfloat16: took_s}
    monkeypatch.setattr(arithmetic, "_took_s", seconds.__getitem__)
    assert arithmetic.is_slow(torch.bfloat16, CPU) == is_slow


def test_products_are_timed():
    assert 0 < arithmetic._took_s(torch.bfloat16) < 10
    assert not arithmetic.is_slow(torch.float32, CPU)
    assert not arithmetic.is_slow(torch.float8_e4m3fn, CPU)
    assert not arithmetic.is_slow(torch.bfloat16, torch.device("meta"))


@pytest.mark.parametrize("is_slow", (False, True))
def test_caches_have_the_models_dtype_whichever_computes(tiny, tokens, monkeypatch, is_slow):
    model, twin = tiny("llama", dtype=torch.bfloat16), tiny("llama")
    monkeypatch.setattr(arithmetic, "is_slow", lambda *_: is_slow)
    prefill = arithmetic.prefiller(model, twin)
    assert prefill.model is (twin if is_slow else model)
    ids = tokens.tolist()
    front = prefill(ids[:60])
    expected = as_dtype(capture(prefill.model, ids[:60]), torch.bfloat16)
    assert front.dtype == torch.bfloat16
    assert all(map(torch.equal, front.planes(), expected.planes()))
    wide = as_dtype(front, prefill.model.dtype)
    expected = as_dtype(capture(prefill.model, ids[60:], past=wide), torch.bfloat16)
    back = prefill(ids[60:], past=front)
    assert back.dtype == torch.bfloat16 and back.num_tokens == len(ids) - 60
    assert all(map(torch.equal, back.planes(), expected.planes()))
