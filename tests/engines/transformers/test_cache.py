"""Caches out of models and back into them, on tiny models of every kind of attention."""

from dataclasses import replace

import pytest
import torch
from transformers import DynamicCache, StaticCache

from cachegen.engines.transformers.cache import capture, from_cache, to_cache, token_ids
from cachegen.errors import UnsupportedCache
from cachegen.kvcache import KVCache

CONTEXT = 70
ATTENTION = (
    "llama",
    "llama-yarn",
    "qwen3",
    "gemma3",
    "gemma3n",
    "mistral",
    "deepseek-v2",
    "deepseek-v3",
    "stablelm",
    "gpt-oss",
    "smollm3",
    "gpt2",
)


def read_on(model, cache, tokens):
    with torch.no_grad():
        return model(tokens[None], past_key_values=cache).logits


def own_cache(model, tokens):
    with torch.no_grad():
        return model(tokens[None], use_cache=True).past_key_values


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", ATTENTION)
def test_continuing_from_a_captured_context_is_bit_identical(tiny, tokens, name, dtype):
    model = tiny(name, dtype=dtype)
    kv = capture(model, tokens[:CONTEXT])
    assert kv.is_complete and kv.num_tokens == CONTEXT and kv.dtype == dtype
    expected = read_on(model, own_cache(model, tokens[:CONTEXT]), tokens[CONTEXT:])
    got = read_on(model, to_cache(kv, model), tokens[CONTEXT:])
    assert torch.equal(got, expected)
    emptied = KVCache(
        tuple(map(torch.zeros_like, kv.keys)), tuple(map(torch.zeros_like, kv.values)), CONTEXT
    )
    assert not torch.equal(read_on(model, to_cache(emptied, model), tokens[CONTEXT:]), expected)


@pytest.mark.parametrize("name", ["gemma3", "mistral", "gpt-oss"])
def test_windows_of_the_models_own_cache_are_the_tails_of_the_captured_planes(tiny, tokens, name):
    model = tiny(name)
    captured = capture(model, tokens)
    finished = from_cache(own_cache(model, tokens))
    assert finished.num_tokens == len(tokens) and not finished.is_complete
    for whole, held in zip(captured.planes(), finished.planes(), strict=True):
        assert torch.equal(whole[:, -held.shape[1] :], held)


def test_a_finished_cache_with_windows_continues_too(tiny, tokens):
    model = tiny("gemma3")
    expected = read_on(model, own_cache(model, tokens[:CONTEXT]), tokens[CONTEXT:])
    rebuilt = to_cache(from_cache(own_cache(model, tokens[:CONTEXT])), model)
    assert torch.equal(read_on(model, rebuilt, tokens[CONTEXT:]), expected)


def test_sliding_layers_get_only_their_window(tiny, tokens):
    cache = to_cache(capture(tiny("gemma3"), tokens), tiny("gemma3"))
    assert [layer.keys.shape[2] for layer in cache.layers] == [15, 100, 15, 100]
    assert [layer.get_seq_length() for layer in cache.layers] == [100] * 4


def test_layers_that_share_keys_and_values_are_not_stored(tiny, tokens):
    assert capture(tiny("gemma3n"), tokens).num_layers == 2


@pytest.mark.parametrize("name", ["llama", "gemma3", "mistral", "deepseek-v3"])
def test_prefill_in_pieces_gives_the_same_cache(tiny, tokens, name):
    whole = capture(tiny(name), tokens)
    pieces = capture(tiny(name), tokens, prefill_tokens=37)
    for left, right in zip(whole.planes(), pieces.planes(), strict=True):
        torch.testing.assert_close(left, right, atol=5e-5, rtol=0)


@pytest.mark.parametrize("name", ["llama", "gemma3", "deepseek-v3"])
def test_tokens_after_a_past_are_computed_on_top_of_it(tiny, tokens, name):
    model = tiny(name)
    past = capture(model, tokens[:CONTEXT])
    rest = capture(model, tokens[CONTEXT:], past=past)
    assert rest.is_complete and (rest.start, rest.stop) == (CONTEXT, len(tokens))
    joined, whole = KVCache.concat([past, rest]), capture(model, tokens)
    for left, right in zip(joined.planes(), whole.planes(), strict=True):
        torch.testing.assert_close(left, right, atol=5e-5, rtol=0)


def test_greedy_generation_is_the_same(tiny, tokens):
    model, ids = tiny("llama"), tokens[None]
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    expected = model.generate(ids, **options)
    cache = to_cache(capture(model, tokens[:-1]), model)
    assert torch.equal(model.generate(ids, past_key_values=cache, **options), expected)


@pytest.mark.parametrize("name", ["qwen3-next", "falcon-h1", "deepseek-v3.2"])
def test_more_state_than_keys_and_values_is_refused(tiny, tokens, name):
    with pytest.raises(UnsupportedCache, match=r"keys and values of tokens"):
        capture(tiny(name), tokens)
    with pytest.raises(UnsupportedCache, match=r"keys and values of tokens"):
        to_cache(capture(tiny("llama"), tokens), tiny(name))


def test_static_caches_are_refused(tiny, tokens):
    model = tiny("llama")
    cache = StaticCache(config=model.config, max_cache_len=128)
    read_on(model, cache, tokens)
    with pytest.raises(UnsupportedCache, match="StaticLayer"):
        from_cache(cache)


def test_empty_and_batched_caches_are_refused(tiny, tokens):
    model = tiny("llama")
    with pytest.raises(ValueError, match="empty"):
        from_cache(DynamicCache())
    with pytest.raises(ValueError, match="empty"):
        from_cache(DynamicCache(config=model.config))
    with pytest.raises(ValueError, match="batch of 1"):
        from_cache(model(tokens.view(2, 50), use_cache=True).past_key_values)


def test_caches_that_do_not_fit_the_model_are_refused(tiny, tokens):
    model = tiny("gemma3")
    kv = capture(model, tokens)
    with pytest.raises(ValueError, match="from token 10"):
        to_cache(kv.slice(10, 100), model)
    with pytest.raises(ValueError, match=r"with 4 layers, got one .* with 3"):
        to_cache(KVCache(kv.keys[:3], kv.values[:3], kv.num_tokens), model)
    window = from_cache(own_cache(model, tokens))
    with pytest.raises(ValueError, match="layer 0: expected the last 15 of 99 tokens, got 14"):
        to_cache(window.slice(0, 99), model)


def test_a_past_must_be_complete(tiny, tokens):
    """As far back as a layer's window reaches."""
    model = tiny("gemma3")
    past = from_cache(own_cache(model, tokens))
    assert capture(model, [5], past=past).num_tokens == 1
    keys, values = (past.keys[0][:, 1:], *past.keys[1:]), (past.values[0][:, 1:], *past.values[1:])
    short = replace(past, keys=keys, values=values)
    with pytest.raises(ValueError, match="layer 0: expected the last 15 of 100 tokens, got 14"):
        capture(model, [5], past=short)


def test_there_must_be_tokens(tiny):
    with pytest.raises(ValueError, match="at least one token"):
        capture(tiny("llama"), [])


def test_tokens_come_in_many_shapes(tokens):
    expected = tuple(tokens.tolist())
    assert token_ids(tokens[None]) == token_ids(tokens.numpy()) == token_ids(expected) == expected
    with pytest.raises(ValueError, match=r"\(2, 50\)"):
        token_ids(tokens.view(2, 50))
