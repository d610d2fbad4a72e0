"""Samples and measurements for calibration."""

import pytest
import torch
from torch.nn.functional import log_softmax

from cachegen.codec.levels import Quality
from cachegen.engines.hf_cache import capture, to_cache
from cachegen.engines.hf_quality import Window, cut_windows, evaluator, samples, spread
from cachegen.kvcache import KVCache


def noisy(scale):
    def roundtrip(kv):
        generator = torch.Generator().manual_seed(kv.num_tokens)

        def add(plane):
            noise = torch.randn(plane.shape, generator=generator)
            return (plane.float() + scale * plane.float().std() * noise).to(plane.dtype)

        return KVCache(tuple(map(add, kv.keys)), tuple(map(add, kv.values)), kv.num_tokens)

    return roundtrip


@pytest.fixture(scope="module")
def texts():
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(3, 128, (n,), generator=generator) for n in (400, 90, 700)]


@pytest.mark.parametrize("name", ["llama", "gemma3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_an_exact_round_trip_costs_nothing(tiny, texts, name, dtype):
    windows = cut_windows(texts, num_tokens=64, continuation_tokens=24, count=5)
    evaluate = evaluator(tiny(name, dtype=dtype), windows, batch_windows=3)
    assert evaluate(lambda kv: kv) == Quality(kl=0.0, rel_ppl=0.0, top1=1.0, num_tokens=120)


def test_more_noise_costs_more(tiny, texts):
    windows = cut_windows(texts, num_tokens=64, continuation_tokens=24, count=5)
    evaluate = evaluator(tiny("llama"), windows)
    found = [evaluate(noisy(scale)) for scale in (0.01, 0.05, 0.25)]
    assert 0 < found[0].kl < found[1].kl / 4 < found[2].kl / 16
    assert found[0].top1 > 0.9 > found[2].top1
    assert abs(found[0].rel_ppl) < 0.05


def test_measured_as_defined(tiny, texts):
    """Batches give what one window at a time gives, computed here step by step."""
    model = tiny("llama")
    windows = cut_windows(texts, num_tokens=64, continuation_tokens=24, count=4)
    kl, nll, same = [], [], []
    for window in windows:
        kv = capture(model, window.context)
        inputs = torch.tensor([window.continuation[:-1]])
        with torch.no_grad():
            p, q = (
                log_softmax(model(inputs, past_key_values=to_cache(c, model)).logits[0].double(), 1)
                for c in (kv, noisy(0.1)(kv))
            )
        kl.append((p.exp() * (p - q)).sum(1))
        targets = torch.tensor(window.continuation[1:])[:, None]
        nll.append((p - q).gather(1, targets)[:, 0])
        same.append(p.argmax(1) == q.argmax(1))
    found = evaluator(model, windows, batch_windows=3)(noisy(0.1))
    assert found.kl == pytest.approx(float(torch.cat(kl).mean()), rel=1e-3)
    assert found.rel_ppl == pytest.approx(float(torch.cat(nll).mean().exp()) - 1, rel=1e-3)
    assert found.top1 == pytest.approx(float(torch.cat(same).double().mean()), abs=0.011)
    assert found.num_tokens == 96


def test_windows_must_be_of_the_same_lengths(tiny):
    model = tiny("llama")
    with pytest.raises(ValueError, match="at least one window"):
        evaluator(model, [])
    with pytest.raises(ValueError, match="same lengths"):
        evaluator(model, [Window((3, 4), (5, 6)), Window((3, 4, 5), (5, 6))])


def test_pieces_are_spread_evenly_and_do_not_overlap(texts):
    every = spread(texts, num_tokens=80, count=14)
    assert [len(piece) for piece in every] == [80] * 14
    assert every[1] == tuple(texts[0][80:160].tolist())
    assert every[5] == tuple(texts[1][:80].tolist())
    assert spread(texts, num_tokens=80, count=7) == every[::2]
    with pytest.raises(ValueError, match="enough for 14"):
        spread(texts, num_tokens=80, count=15)


def test_windows_predict_what_follows_their_context(texts):
    (window,) = cut_windows(texts[:1], num_tokens=64, continuation_tokens=24, count=1)
    assert window.context + window.continuation == tuple(texts[0][:89].tolist())
    assert len(window.continuation) == 25


def test_samples_are_computed_one_at_a_time(tiny, texts):
    stream = samples(tiny("llama"), texts, num_tokens=80, count=3)
    kv = next(stream)
    expected = capture(tiny("llama"), texts[0][:80])
    assert all(torch.equal(a, b) for a, b in zip(kv.planes(), expected.planes(), strict=True))
    assert len(list(stream)) == 2
