"""Measurements for calibration."""

import math

import pytest
import torch
from torch.nn.functional import log_softmax

from cachegen.codec.levels import Quality
from cachegen.engines.transformers.arithmetic import Prefiller
from cachegen.engines.transformers.cache import capture, to_cache
from cachegen.engines.transformers.quality import _expm1, as_dtype, evaluator
from cachegen.engines.transformers.tasks import Task
from cachegen.engines.transformers.text_windows import Window, answer_window, cut_windows
from cachegen.kvcache import KVCache


def noisy(scale):
    def roundtrip(kv, tokens):
        assert len(tokens) == kv.num_tokens
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


def exact(kv, tokens):
    return kv


@pytest.mark.parametrize("name", ["llama", "gemma3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_an_exact_round_trip_costs_nothing(tiny, texts, name, dtype):
    windows = cut_windows(texts, num_tokens=64, continuation_tokens=24, count=5)
    evaluate = evaluator(tiny(name, dtype=dtype), {"text": windows}, batch_windows=3)
    assert evaluate(exact) == {
        "text": Quality(kl=0.0, rel_ppl=0.0, top1=1.0, num_tokens=120, rel_ppl_error=0.0)
    }


def test_more_noise_costs_more(tiny, texts):
    windows = cut_windows(texts, num_tokens=64, continuation_tokens=24, count=5)
    evaluate = evaluator(tiny("llama"), {"text": windows})
    found = [evaluate(noisy(scale))["text"] for scale in (0.01, 0.05, 0.25)]
    assert 0 < found[0].kl < found[1].kl / 4 < found[2].kl / 16
    assert found[0].top1 > 0.9 > found[2].top1
    assert abs(found[0].rel_ppl) < 0.05


def test_predictions_that_are_not_finite_are_refused_before_anything_is_coded(new_model, texts):
    model = new_model("llama")
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    windows = cut_windows(texts, num_tokens=64, continuation_tokens=24, count=2)
    with pytest.raises(ValueError, match=r"finite predictions of the texts of 'text'.*float32"):
        evaluator(model, {"text": windows})


def test_a_step_that_ruins_the_cache_is_measured_all_the_same(tiny, texts):
    """As NaN or infinite: it is this step's quality, and others may be better."""

    def ruin(kv, tokens):
        keys = tuple(torch.full_like(key, float("nan")) for key in kv.keys)
        return KVCache(keys, kv.values, kv.num_tokens)

    windows = cut_windows(texts, num_tokens=64, continuation_tokens=24, count=2)
    assert math.isnan(evaluator(tiny("llama"), {"text": windows})(ruin)["text"].kl)
    assert _expm1(1e4) == math.inf and _expm1(0.0) == 0.0


def test_reference_runs_are_told(tiny, texts, ascii_tokenizer):
    told = []
    windows = {"text": cut_windows(texts, num_tokens=64, continuation_tokens=24, count=2)}
    task = Task("text", (40, 41), ((42,),), ("a",))
    evaluator(tiny("llama"), windows, [task], tokenizer=ascii_tokenizer, progress=told.append)
    assert [str(status) for status in told] == [f"reference runs {n} of 3" for n in (1, 2, 3)]


def measured_one_by_one(model, window, roundtrip):
    """Float64 (3, tokens): KL, what the log-likelihood lost, where top-1 agrees."""
    kv = capture(model, window.context)
    inputs = torch.tensor([window.continuation[:-1]])
    with torch.no_grad():
        p, q = (
            log_softmax(model(inputs, past_key_values=to_cache(c, model)).logits[0].double(), 1)
            for c in (kv, roundtrip(kv, window.context))
        )
    targets = torch.tensor(window.continuation[1:])[:, None]
    lost = (p - q).gather(1, targets)[:, 0]
    return torch.stack(((p.exp() * (p - q)).sum(1), lost, (p.argmax(1) == q.argmax(1)).double()))


def test_measured_as_defined(tiny, texts):
    """Batches give what one window at a time gives; lengths and domains may differ."""
    model = tiny("llama")
    answers = tuple(place % 3 == 0 for place in range(24))
    long = cut_windows(texts, num_tokens=64, continuation_tokens=24, count=4)
    short = cut_windows(texts, num_tokens=50, continuation_tokens=30, count=3)
    marked = [Window(w.context, w.continuation, answers) for w in long[:2]]
    domains = {"mixed": [*long, *short], "asked": [*marked, short[0]]}
    found = evaluator(model, domains, batch_windows=3)(noisy(0.1))
    for name, windows in domains.items():
        rows = [measured_one_by_one(model, window, noisy(0.1)) for window in windows]
        kl, lost, agree = torch.cat(rows, dim=1).mean(dim=1).tolist()
        assert found[name].kl == pytest.approx(kl, rel=1e-3)
        assert found[name].rel_ppl == pytest.approx(math.expm1(lost), rel=1e-3)
        assert found[name].top1 == pytest.approx(agree, abs=0.011)
        assert found[name].num_tokens == sum(row.shape[1] for row in rows)
    of_answers = torch.cat([row[0, torch.tensor(answers)] for row in rows[:2]])
    assert found["asked"].answer_kl == pytest.approx(float(of_answers.mean()), rel=1e-3)
    assert found["mixed"].answer_kl is None


def test_answers_are_counted(tiny, ascii_tokenizer):
    """Of a random model's own greedy answers all are right, until the cache is another one."""
    model = tiny("llama")
    context = tuple(range(33, 93))
    prompts = tuple((65 + i, 66, 67) for i in range(6))
    answers = tuple(greedy(model, context, prompt, ascii_tokenizer) for prompt in prompts)
    task = Task("asked", context, prompts, answers)
    windows = {"asked": [answer_window(task, ascii_tokenizer)], "text": [Window((3, 4), (5, 6))]}
    evaluate = evaluator(model, windows, [task], tokenizer=ascii_tokenizer)
    found = evaluate(exact)
    assert found["asked"].exact_match == found["asked"].exact_match_uncompressed == 1.0
    assert found["asked"].num_answers == 6 and found["asked"].answer_kl == 0.0
    assert found["text"].exact_match is None and found["text"].num_answers == 0
    broken = evaluate(noisy(3.0))["asked"]
    assert broken.exact_match < 0.5 and broken.exact_match_uncompressed == 1.0


def greedy(model, context, prompt, tokenizer):
    with torch.no_grad():
        ids = [*context, *prompt]
        for _ in range(20):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    text = tokenizer.decode(ids[-20:]).strip()
    return next(text[:n] for n in range(1, 20) if not text[n : n + 1].isalnum())


def test_what_evaluator_refuses(tiny, ascii_tokenizer):
    model, window = tiny("llama"), Window((3, 4), (5, 6))
    task = Task("asked", (40, 41), ((42,),), ("a",))
    for windows, tasks in (({}, ()), ({"text": []}, ()), ({"text": [window]}, [task])):
        with pytest.raises(ValueError, match="at least one window for every domain"):
            evaluator(model, windows, tasks, tokenizer=ascii_tokenizer)
    with pytest.raises(ValueError, match="tokenizer"):
        evaluator(model, {"asked": [window]}, [task])
    with pytest.raises(ValueError, match="each of 2 predicted tokens, got 3"):
        Window((3,), (4, 5, 6), (True, False, True))


def test_contexts_are_given_back_as_they_will_be_coded(tiny, texts):
    windows = cut_windows(texts, num_tokens=64, continuation_tokens=24, count=5)
    evaluate = evaluator(tiny("llama"), {"a": windows, "b": windows[:1]}, batch_windows=3)
    found = evaluate.contexts(dtype=torch.bfloat16, most=2)
    assert [tokens for tokens, _ in found["a"]] == [windows[0].context, windows[2].context]
    assert [len(pairs) for pairs in found.values()] == [2, 1]
    assert all(kv.dtype == torch.bfloat16 and kv.num_tokens == 64 for _, kv in found["a"])


def test_contexts_may_be_prefilled_in_another_dtype(tiny, texts):
    """What is compared is the continuation in float32 on the caches of the 16-bit model."""
    windows = cut_windows(texts, num_tokens=60, continuation_tokens=10, count=2)
    model, writer = tiny("llama"), tiny("llama", dtype=torch.bfloat16)
    seen = []

    def look(kv, tokens):
        expected = as_dtype(capture(writer, tokens), torch.float32)
        assert all(map(torch.equal, kv.planes(), expected.planes()))
        seen.append(tokens)
        return kv

    found = evaluator(model, {"text": windows}, prefill=Prefiller(writer, writer.dtype))(look)
    assert len(seen) == 2 and abs(found["text"].kl) < 1e-6


def test_the_error_of_perplexity_is_that_of_windows(tiny, texts):
    """Two windows that lose alike leave no doubt; one alone tells nothing of it."""
    windows = cut_windows(texts, num_tokens=64, continuation_tokens=24, count=5)
    found = evaluator(tiny("llama"), {"text": windows})(noisy(0.05))["text"]
    alone = evaluator(tiny("llama"), {"text": windows[:1]})(noisy(0.05))["text"]
    twice = evaluator(tiny("llama"), {"text": [windows[0]] * 2})(noisy(0.0))["text"]
    assert found.rel_ppl_error > 0 and alone.rel_ppl_error is None
    assert twice.rel_ppl_error == pytest.approx(0, abs=1e-7)
