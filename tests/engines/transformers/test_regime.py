"""Rotations by the length of the text: keys of a context go only to texts that get the same."""

import pytest
import torch

from cachegen.engines.transformers import load_context, save_context
from cachegen.engines.transformers.cache import capture
from cachegen.engines.transformers.regime import Regime, regime_of
from cachegen.errors import UnsupportedCache
from cachegen.store import open_store

ORIGINAL = 128
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": [1.0] * 8,
    "long_factor": [4.0] * 8,
    "original_max_position_embeddings": ORIGINAL,
    "factor": 4.0,
}
GREEDY = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}


@pytest.fixture(params=["llama", "phi3"])
def longrope(new_model, request):
    """Llama goes on from any cache; Phi-3 throws a cache from before the switch away."""
    return new_model(
        request.param, rope_parameters=LONGROPE, original_max_position_embeddings=ORIGINAL
    )


@pytest.fixture
def dynamic(new_model):
    parameters = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
    return new_model("llama", rope_parameters=parameters, max_position_embeddings=ORIGINAL)


@pytest.fixture
def text():
    return torch.randint(3, 128, (300,), generator=torch.Generator().manual_seed(4))


@pytest.fixture
def store():
    return open_store("memory:")


def own_planes(model, ids):
    with torch.no_grad():
        cache = model(ids[None], use_cache=True).past_key_values
    return [plane[0] for layer in cache.layers for plane in (layer.keys, layer.values)]


def check_planes(kv, model, ids):
    """The first planes of what one pass over the whole text computes."""
    for got, own in zip(kv.planes(), own_planes(model, ids), strict=True):
        torch.testing.assert_close(got, own[:, : kv.num_tokens], atol=5e-5, rtol=0)


def generated(model, ids, **options):
    mask = torch.ones_like(ids[None])
    return model.generate(ids[None], attention_mask=mask, **GREEDY, **options)


def test_a_context_is_loaded_for_texts_of_its_own_frequencies_only(longrope, text, store):
    """Whatever is loaded is what the model computes of the whole text in one pass."""
    save_context(longrope, text[:128], store=store, chunk_tokens=64)
    short = load_context(longrope, text[:128], store=store, level="lossless")
    assert short.num_tokens == 127
    check_planes(short.result.kv, longrope, text[:128])
    assert load_context(longrope, text[:129], store=store).num_tokens == 0
    save_context(longrope, text[:200], store=store, chunk_tokens=64)
    for num_tokens in (300, 200, 140):
        long = load_context(longrope, text[:num_tokens], store=store, level="lossless")
        assert long.num_tokens == min(num_tokens - 1, 192) // 64 * 64 or num_tokens == 200
        check_planes(long.result.kv, longrope, text[:num_tokens])
    again = load_context(longrope, text[:128], store=store, level="lossless")
    check_planes(again.result.kv, longrope, text[:128])


def test_pieces_end_behind_the_switch(longrope, text):
    whole = own_planes(longrope, text)
    for prefill_tokens in (50, 128, 129, 299):
        kv = capture(longrope, text, prefill_tokens=prefill_tokens)
        for got, own in zip(kv.planes(), whole, strict=True):
            torch.testing.assert_close(got, own, atol=5e-5, rtol=0)


def test_a_past_that_may_be_of_other_frequencies_is_refused(longrope, text):
    past = capture(longrope, text[:100])
    with pytest.raises(ValueError, match="capture the whole text at once"):
        capture(longrope, text[100:200], past=past)
    long = capture(longrope, text[:200])
    for first in (100, 150):
        part = capture(
            longrope,
            text[first:200],
            past=long.slice(0, first),
            regime=regime_of(longrope, 200),
        )
        for got, own in zip(part.planes(), long.planes(), strict=True):
            torch.testing.assert_close(got, own[:, first:], atol=5e-5, rtol=0)
    assert capture(longrope, text[100:128], past=past).num_tokens == 28


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_chunk_before_the_switch_is_recomputed_as_in_the_whole_text(longrope, text, store, lost):
    manifest = save_context(longrope, text[:256], store=store, chunk_tokens=64)
    for stored in manifest.chunks[lost].objects:
        store.delete(stored.key)
    loaded = load_context(longrope, text, store=store, level="lossless")
    assert loaded.result.chunks[lost].level == "text" and loaded.num_tokens == 256
    check_planes(loaded.result.kv, longrope, text)


@pytest.mark.parametrize("num_tokens", [120, 128, 129, 260])
def test_generation_is_the_models_own(longrope, text, store, num_tokens):
    """Before the switch, over it while generating, and behind it."""
    ids = text[:num_tokens]
    expected = generated(longrope, ids)
    save_context(longrope, ids[: num_tokens - 8], store=store, chunk_tokens=64)
    loaded = load_context(longrope, ids, store=store, level="lossless")
    assert loaded.num_tokens > 0 or num_tokens in (128, 129)
    assert torch.equal(generated(longrope, ids, past_key_values=loaded.cache), expected)


def test_texts_that_extend_a_long_one_share_its_chunks(longrope, text, store):
    save_context(longrope, text[:192], store=store, chunk_tokens=64)
    before = {key for key in store.list() if key.startswith("chunks/")}
    save_context(longrope, text[:256], store=store, chunk_tokens=64)
    new = {key for key in store.list() if key.startswith("chunks/")} - before
    assert new and all("/192-256/" in key for key in new)


def test_ever_changing_frequencies_are_refused_beyond_the_original_length(dynamic, text, store):
    save_context(dynamic, text[:127], store=store, chunk_tokens=64)
    loaded = load_context(dynamic, text[:127], store=store, level="lossless")
    assert loaded.num_tokens == 126
    check_planes(loaded.result.kv, dynamic, text[:127])
    stored = set(store.list())
    for act in (save_context, load_context):
        with pytest.raises(UnsupportedCache, match=r"fewer than 128 tokens.*'yarn'"):
            act(dynamic, text[:128], store=store)
    with pytest.raises(UnsupportedCache, match="fewer than 128"):
        capture(dynamic, text)
    assert set(store.list()) == stored


def test_what_a_long_text_left_behind_does_not_count(dynamic, text, store):
    """A pass beyond the original length changes the model until a short one comes."""
    save_context(dynamic, text[:120], store=store, chunk_tokens=64)
    with torch.no_grad():
        dynamic(text[None])
    loaded = load_context(dynamic, text[:127], store=store, level="lossless")
    assert loaded.num_tokens == 64
    check_planes(loaded.result.kv, dynamic, text[:127])


def test_layers_of_several_kinds_each_have_their_switch(new_model):
    def parameters(original):
        return {**LONGROPE, "original_max_position_embeddings": original}

    rotations = {"sliding_attention": parameters(100), "full_attention": parameters(200)}
    model = new_model("gemma3", rope_parameters=rotations)
    assert [regime_of(model, n).passed for n in (100, 101, 201)] == [(), (100,), (100, 200)]
    extras = {regime_of(model, n).extra(b"image") for n in (100, 101, 201)}
    assert len(extras) == 3 and b"image" in extras
    assert Regime((100, 200)).reach(50) == 201 and Regime((100,)).reach(150) == 150


def test_fixed_rotations_have_one_regime(tiny):
    for name in ("llama", "llama-yarn", "llama-llama3", "gpt2", "deepseek-v3"):
        assert regime_of(tiny(name), 100_000) == Regime()
