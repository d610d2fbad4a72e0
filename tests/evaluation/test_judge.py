"""What a coder does to a case, held against plain transformers code."""

import math

import pytest
import torch
from transformers import DynamicCache

from cachegen.engines.transformers.rope import rope_map
from cachegen.evaluation.coder import Coder
from cachegen.evaluation.judge import measure, prepare
from cachegen.evaluation.methods import exact, presets, uniform, zeroed
from cachegen.kvcache import KVCache


@pytest.fixture(scope="module")
def prepared(models, asking, reading):
    return {"asking": prepare(models, asking), "reading": prepare(models, reading)}


def adaptive(models):
    return presets.adaptive_coder(rope_map(models.writer), "low")


def test_the_answer_is_that_of_generate(models, asking, prepared):
    ids = torch.tensor([[*asking.context, *asking.question]])
    found = models.reader.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=6
    )
    assert prepared["asking"].answer == tuple(found[0, ids.shape[1] :].tolist())
    assert prepared["asking"].score == 1.0


@pytest.mark.parametrize("kind", ("asking", "reading"))
def test_an_exact_coder_changes_nothing(models, prepared, kind):
    own = prepared[kind]
    found = measure(models, own, exact.raw_coder(own.kv.geometry))
    assert found.kl == 0.0 and found.top1 == 1.0 and found.score == own.score
    assert found.lost == (0.0 if kind == "reading" else None)
    assert found.num_bytes == own.kv.size_bytes
    assert found.num_tokens == len(own.read) - 1


@pytest.mark.parametrize("kind", ("asking", "reading"))
def test_kl_and_likelihood_are_those_of_plain_transformers_code(models, prepared, kind):
    """Logits from a cache that is put together by hand, compared in float64."""
    own, coder = prepared[kind], adaptive(models)
    found = measure(models, own, coder)
    coded = coder.roundtrip(own.kv, own.case.context)
    read = torch.tensor([own.read])

    def logits(kv: KVCache) -> torch.Tensor:
        cache = DynamicCache()
        for layer, (key, value) in enumerate(zip(kv.keys, kv.values, strict=True)):
            cache.update(key[None].float(), value[None].float(), layer)
        with torch.no_grad():
            return models.reader(read, past_key_values=cache).logits[0, :-1].double()

    before, after = logits(own.kv).log_softmax(-1), logits(coded).log_softmax(-1)
    kl = (before.exp() * (before - after)).sum(-1).mean()
    assert found.kl == pytest.approx(float(kl), rel=1e-3) and found.kl > 0
    agreed = (before.argmax(-1) == after.argmax(-1)).double().mean()
    assert found.top1 == pytest.approx(float(agreed))
    if kind == "reading":
        lost = (before - after).gather(1, read[0, 1:, None]).sum()
        assert found.lost == pytest.approx(float(lost), rel=1e-3, abs=1e-4)


def test_an_answer_that_differs_is_that_of_the_coded_cache(models, asking, prepared):
    """Read off as far as it is the same, and generated from there on."""
    own = prepared["asking"]
    broken = zeroed.broken_coder(exact.raw_coder(own.kv.geometry))
    coded = broken.roundtrip(own.kv, asking.context)
    cache = DynamicCache()
    for layer, (key, value) in enumerate(zip(coded.keys, coded.values, strict=True)):
        cache.update(key[None].float(), value[None].float(), layer)
    ids, answer = torch.tensor([asking.question]), []
    with torch.no_grad():
        for _ in range(asking.most_new_tokens):
            logits = models.reader(ids, past_key_values=cache).logits
            ids = logits[:, -1:].argmax(-1)
            answer.append(int(ids))
    from cachegen.evaluation import judge

    found = judge._answer(
        models, own, coded, judge._read(models, coded, own.read, len(asking.context)),
        position=len(asking.context),
    )  # fmt: skip
    assert list(found) == answer


def test_a_broken_codec_is_worse_in_every_measure(models, prepared):
    reading, asking = prepared["reading"], prepared["asking"]
    good = presets.adaptive_coder(rope_map(models.writer), "high")
    bad = zeroed.broken_coder(good)
    for own in (reading, asking):
        one, other = measure(models, own, good), measure(models, own, bad)
        assert other.kl > 10 * one.kl and other.top1 < one.top1
    assert measure(models, reading, bad).lost > measure(models, reading, good).lost
    assert measure(models, asking, bad).score < measure(models, asking, good).score


def test_dropped_tokens_leave_positions_as_they_are(models, reading, prepared):
    """The last half of the cache alone: what follows is read at its true places."""
    own = prepared["reading"]
    kept = len(reading.context) // 2

    def last(data, tokens):
        part = own.kv.slice(len(tokens) - kept, len(tokens))
        return KVCache(part.keys, part.values, kept)

    dropping = Coder("half", "", lambda kv, tokens: b"x", last)
    found = measure(models, own, dropping)
    cache = DynamicCache()
    for layer, (key, value) in enumerate(zip(own.kv.keys, own.kv.values, strict=True)):
        cache.update(key[None, :, -kept:].float(), value[None, :, -kept:].float(), layer)
    places = torch.arange(len(reading.context), len(reading.context) + len(own.read))[None]
    with torch.no_grad():
        logits = models.reader(
            torch.tensor([own.read]), past_key_values=cache, position_ids=places
        ).logits[0, :-1]
    before, after = own.logits[:-1].log_softmax(-1), logits.log_softmax(-1)
    kl = (before.exp() * (before - after)).sum(-1).mean()
    assert found.kl == pytest.approx(float(kl), rel=1e-3)
    shorter = Coder("short", "", lambda kv, tokens: b"x", last, is_shorter_text=True)
    assert measure(models, own, shorter).kl != pytest.approx(found.kl, rel=1e-2)


def test_bits_fall_and_kl_rises_along_a_curve(models, prepared):
    own = prepared["reading"]
    found = [measure(models, own, one) for one in uniform.uniform_coders(own.kv.geometry)]
    assert [one.num_bytes for one in found] == sorted(one.num_bytes for one in found)
    assert found[0].kl > found[2].kl > found[-1].kl
    assert all(math.isfinite(one.kl) for one in found)
