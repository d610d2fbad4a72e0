"""Models with windows: stored by kind, loaded as far as windows reach, continued bit for bit."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, Llama4TextConfig
from transformers.models.gemma3 import modeling_gemma3

from cachegen.codec.levels import LOSSLESS
from cachegen.engines.transformers import load_context, save_context
from cachegen.engines.transformers.cache import capture, to_cache
from cachegen.engines.transformers.layers import windows_of
from cachegen.store import open_store
from cachegen.store.memory import MemoryStore

CHUNK = 64
_FULL = "full_attention"
FIVE_TO_ONE = ["sliding_attention"] * 5 + [_FULL]


class Counted:
    """Counts the bytes of the chunks that a store gives."""

    def __init__(self) -> None:
        self.store, self.given = MemoryStore("counted:"), 0
        self.url = self.store.url

    def get(self, key, range=None):
        data = b"".join(map(bytes, self.store.get(key, range)))
        self.given += len(data) if key.startswith("chunks/") else 0
        return iter([data])

    def __getattr__(self, name):
        return getattr(self.store, name)


@pytest.fixture(scope="module")
def text():
    return torch.randint(3, 128, (420,), generator=torch.Generator().manual_seed(9))


@pytest.fixture(scope="module")
def gemma(new_model):
    """Gemma 3's pattern of layers, a window that chunks do not divide."""
    return new_model(
        "gemma3", num_hidden_layers=6, layer_types=FIVE_TO_ONE, sliding_window=100, seed=3
    )


@pytest.fixture(scope="module")
def llama4():
    """Attention in pieces of 48 tokens, with full attention in every fourth layer."""
    config = Llama4TextConfig(
        vocab_size=128, hidden_size=64, intermediate_size=64, intermediate_size_mlp=64,
        num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        num_local_experts=2, num_experts_per_tok=1, attention_chunk_size=48,
        max_position_embeddings=512, initializer_range=0.2,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(2)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def read_on(model, cache, tokens):
    with torch.no_grad():
        return model(tokens[None], past_key_values=cache).logits


def check_continues(model, text, store, kv, *, num_tokens: int) -> None:
    """What is loaded of a text is this cache, cut there, and goes on as that does."""
    loaded = load_context(model, text, store=store, level=LOSSLESS)
    assert loaded.num_tokens == num_tokens and loaded.result.exact
    whole = to_cache(kv.slice(0, num_tokens), model)
    for got, expected in zip(loaded.cache.layers, whole.layers, strict=True):
        assert torch.equal(got.keys, expected.keys) and torch.equal(got.values, expected.values)
        assert got.get_seq_length() == expected.get_seq_length() == num_tokens
        assert got.get_mask_sizes(3) == expected.get_mask_sizes(3)
    rest = text[num_tokens:]
    assert torch.equal(read_on(model, loaded.cache, rest), read_on(model, whole, rest))


@pytest.mark.parametrize("chunk_tokens", [64, 192])
@pytest.mark.parametrize("name", ["gemma", "llama4"])
def test_every_cut_continues_bit_for_bit(request, text, name, chunk_tokens):
    model, store = request.getfixturevalue(name), open_store("memory:")
    save_context(model, text[:380], store=store, chunk_tokens=chunk_tokens, levels=[LOSSLESS])
    kv = capture(model, text[:380])
    check_continues(model, text, store, kv, num_tokens=380 - 380 % 64)
    check_continues(model, text[:380], store, kv, num_tokens=379)
    for cut in range(chunk_tokens, 380, chunk_tokens):
        other = torch.cat((text[:cut], text[: 420 - cut]))
        check_continues(model, other, store, kv, num_tokens=cut)
        check_continues(model, text[:cut], store, kv, num_tokens=cut - 1)


def test_windows_are_those_of_the_models_cache(gemma, llama4, tiny):
    assert windows_of(gemma) == (100,) * 5 + (0,)
    assert windows_of(llama4) == (48, 48, 48, 0)
    assert windows_of(tiny("mistral")) == (16,) * 4 and windows_of(tiny("llama")) == (0,) * 4


def test_a_load_fetches_only_what_its_windows_need(gemma, text):
    """Five of six layers have windows of 100 tokens: of 380 tokens, chunks of 64, three of six."""
    store = Counted()
    manifest = save_context(gemma, text[:380], store=store, chunk_tokens=CHUNK, levels=[LOSSLESS])
    stored = {"full": 0, "window-100": 0}
    for chunk in manifest.chunks:
        for one in chunk.objects:
            stored[one.layers] += one.size_bytes
    needed = sum(one.size_bytes for chunk in manifest.chunks for one in chunk.objects
                 if one.layers == "full" or chunk.stop > 379 - 99)  # fmt: skip
    loaded = load_context(gemma, text[:380], store=store, level=LOSSLESS)
    assert store.given == loaded.result.size_bytes == needed < 0.6 * sum(stored.values())


@pytest.mark.parametrize("lost", [1, 3, 5])
def test_a_lost_chunk_is_recomputed_on_the_windows_before_it(gemma, text, lost):
    store = open_store("memory:")
    manifest = save_context(gemma, text[:380], store=store, chunk_tokens=CHUNK, levels=[LOSSLESS])
    for stored in manifest.chunks[lost].objects:
        store.delete(stored.key)
    loaded = load_context(gemma, text[:380], store=store, level=LOSSLESS)
    levels = [chunk.level for chunk in loaded.result.chunks]
    assert levels.pop(lost) == "text" and set(levels) == {LOSSLESS}
    whole = capture(gemma, text[:380])
    for got, expected in zip(loaded.result.kv.planes(), whole.planes(), strict=True):
        torch.testing.assert_close(got, expected[:, -got.shape[1] :], atol=5e-5, rtol=0)
    expected = read_on(gemma, to_cache(whole.slice(0, 379), gemma), text[379:])
    got = read_on(gemma, loaded.cache, text[379:])
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["gemma", "llama4"])
def test_a_past_of_windows_is_as_good_as_a_complete_one(request, text, name):
    model = request.getfixturevalue(name)
    past = capture(model, text[:200])
    windowed = past.of_layers(range(past.num_layers))
    keys = tuple(
        k[:, -(w - 1) :] if w else k for k, w in zip(past.keys, windows_of(model), strict=True)
    )
    values = tuple(
        v[:, -(w - 1) :] if w else v for v, w in zip(past.values, windows_of(model), strict=True)
    )
    windowed = type(past)(keys, values, 200)
    rest = capture(model, text[200:380], past=windowed, prefill_tokens=70)
    expected = capture(model, text[200:380], past=past, prefill_tokens=70)
    assert rest.is_complete and (rest.start, rest.stop) == (200, 380)
    for got, plane in zip(rest.planes(), expected.planes(), strict=True):
        torch.testing.assert_close(got, plane, atol=5e-5, rtol=0)


def test_generation_goes_on_from_a_load_and_from_what_it_made(gemma, text):
    """Saved again with its continuation, the context shares the chunks there are."""
    store, options = open_store("memory:"), {"max_new_tokens": 8, "do_sample": False}
    save_context(gemma, text[:300], store=store, chunk_tokens=CHUNK, levels=[LOSSLESS])
    loaded = load_context(gemma, text[:320], store=store, level=LOSSLESS)
    assert loaded.num_tokens == 256
    expected = gemma.generate(text[None, :320], **options)
    got = gemma.generate(text[None, :320], past_key_values=loaded.cache, **options)
    assert torch.equal(got, expected)
    before = set(store.list())
    save_context(gemma, text[:380], store=store, chunk_tokens=CHUNK, levels=[LOSSLESS])
    new = [key for key in set(store.list()) - before if key.startswith("chunks/")]
    assert {key.split("/")[2] for key in new} == {"256-320", "320-380"}
    loaded = load_context(gemma, text[:380], store=store, level=LOSSLESS)
    assert loaded.num_tokens == 379
    expected = read_on(gemma, None, text[:380])[:, 379:]
    got = read_on(gemma, loaded.cache, text[379:380])
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def test_windows_that_no_mask_knows_are_not_believed(gemma, monkeypatch):
    """Moshi has a window in its settings and attends to everything."""
    assert set(windows_of(gemma)) == {0, 100}
    monkeypatch.delattr(modeling_gemma3, "create_sliding_window_causal_mask")
    assert set(windows_of(gemma)) == {0}
