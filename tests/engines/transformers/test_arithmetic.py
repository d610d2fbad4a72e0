import pytest
import torch

from cachegen.engines.transformers import arithmetic

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
