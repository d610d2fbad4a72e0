"""Contexts saved with one model and loaded to continue from, through real stores."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM

from cachegen.codec.levels import LOSSLESS, UNCALIBRATED_DEFAULT
from cachegen.contexts.save import save
from cachegen.engines.transformers import load_context, save_context
from cachegen.engines.transformers.cache import capture, from_cache, to_cache
from cachegen.engines.transformers.identity.fingerprint import fingerprint
from cachegen.errors import StoreError, UnsupportedCache
from cachegen.store import open_store

CHUNK = 128
ATTENTION = (
    "llama",
    "llama-llama3",
    "llama-yarn",
    "qwen3",
    "gemma3",
    "mistral",
    "deepseek-v2",
    "deepseek-v3",
    "stablelm",
    "glm",
)
CASES = [(name, "bfloat16") for name in ATTENTION] + [("llama", "float32"), ("gemma3", "float32")]
KL_AT_THE_DEFAULT_LEVEL = 0.15


@pytest.fixture(scope="module")
def text():
    """A random text of 290 tokens: 256 of context, the rest to read on."""
    return torch.randint(3, 128, (290,), generator=torch.Generator().manual_seed(5))


@pytest.fixture
def store():
    return open_store("memory:")


def read_on(model, cache, tokens):
    with torch.no_grad():
        return model(tokens[None], past_key_values=cache).logits


def mean_kl(expected, got):
    p, q = (logits.double().log_softmax(-1) for logits in (expected, got))
    return float((p.exp() * (p - q)).sum(-1).mean())


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_lossless_is_bit_identical_and_lossy_is_bounded(tiny, text, store, name, dtype):
    model, context, rest = tiny(name, dtype=getattr(torch, dtype)), text[:256], text[256:]
    save_context(model, context, store=store, chunk_tokens=CHUNK)
    with torch.no_grad():
        own = model(context[None], use_cache=True).past_key_values
    expected = read_on(model, own, rest)
    exact = load_context(model, text, store=store, level=LOSSLESS)
    assert exact.num_tokens == 256 and exact.result.exact
    assert torch.equal(read_on(model, exact.cache, rest), expected)
    lossy = load_context(model, text, store=store, level=UNCALIBRATED_DEFAULT)
    assert lossy.num_tokens == 256 and not lossy.result.exact
    assert lossy.result.size_bytes < exact.result.size_bytes / 1.5
    kl = mean_kl(expected, read_on(model, lossy.cache, rest))
    assert 0 < kl < KL_AT_THE_DEFAULT_LEVEL
    for plane in lossy.result.kv.planes():
        plane.zero_()
    emptied = to_cache(lossy.result.kv, model)
    assert mean_kl(expected, read_on(model, emptied, rest)) > 2 * KL_AT_THE_DEFAULT_LEVEL


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_all_but_the_last_token_of_a_stored_text_is_loaded(tiny, text, store, name):
    model, context = tiny(name), text[:230]
    manifest = save_context(model, context, store=store, chunk_tokens=CHUNK)
    assert manifest.num_tokens == 230
    loaded = load_context(model, context, store=store, level=LOSSLESS)
    assert loaded.num_tokens == loaded.cache.get_seq_length() == 229
    captured = to_cache(capture(model, context).slice(0, 229), model)
    expected = read_on(model, captured, text[229:])
    assert torch.equal(read_on(model, loaded.cache, text[229:]), expected)


def test_generation_from_a_loaded_context_prefills_the_rest(tiny, text, store):
    model, options = tiny("qwen3"), {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    expected = model.generate(text[None], **options)
    save_context(model, text[:230], store=store, chunk_tokens=CHUNK)
    loaded = load_context(model, text, store=store, level=LOSSLESS)
    assert loaded.num_tokens == 192
    assert torch.equal(
        model.generate(text[None], past_key_values=loaded.cache, **options), expected
    )


def test_an_extended_context_reuses_what_is_stored(tiny, text, store):
    model = tiny("gemma3")
    save_context(model, text[:128], store=store, chunk_tokens=CHUNK)
    before = set(store.list())
    save_context(model, text[:256], store=store, chunk_tokens=CHUNK)
    new = {key for key in set(store.list()) - before if key.startswith("chunks/")}
    assert len(new) == 2 * 2 and all("/128-256/" in key for key in new)  # levels, kinds of layers
    loaded = load_context(model, text, store=store, level=LOSSLESS)
    past = capture(model, text[:128])
    rest = capture(model, text[128:256], past=past)
    for got, first, second in zip(
        loaded.result.kv.planes(), past.planes(), rest.planes(), strict=True
    ):
        assert torch.equal(got, torch.cat((first, second), dim=1)[:, -got.shape[1] :])


def test_saving_twice_writes_nothing_new(tiny, text, store):
    model = tiny("llama")
    first = save_context(model, text, store=store, chunk_tokens=CHUNK)
    before = sorted(store.list())
    assert save_context(model, text, store=store, chunk_tokens=CHUNK) == first
    assert sorted(store.list()) == before


def test_a_lossy_context_is_not_built_upon(tiny, text, store):
    """Its extension is prefilled from the start, so that it stays exact."""
    model = tiny("llama")
    save_context(model, text[:128], store=store, chunk_tokens=CHUNK, levels=["low"])
    save_context(model, text[:256], store=store, chunk_tokens=CHUNK)
    loaded = load_context(model, text, store=store, level=LOSSLESS)
    whole = capture(model, text[:256])
    for got, expected in zip(loaded.result.kv.planes(), whole.planes(), strict=True):
        assert torch.equal(got, expected)


def test_tenants_do_not_see_each_other(tiny, text, store):
    model = tiny("llama")
    save_context(model, text, store=store, salt=b"first")
    assert load_context(model, text, store=store, salt=b"first").num_tokens == 289
    for salt in (b"", b"second"):
        loaded = load_context(model, text, store=store, salt=salt)
        assert (loaded.num_tokens, loaded.result.chunks) == (0, ())


def test_other_models_find_nothing_and_start_afresh(tiny, new_model, text, store):
    save_context(tiny("llama"), text, store=store)
    other = new_model("llama", seed=1)
    loaded = load_context(other, text, store=store)
    assert loaded.num_tokens == 0 and loaded.result.kv is None
    assert torch.equal(read_on(other, loaded.cache, text), other(text[None], use_cache=True).logits)


def test_a_lost_chunk_is_recomputed(tiny, text, store):
    model = tiny("gemma3")
    manifest = save_context(model, text[:256], store=store, chunk_tokens=64)
    for stored in manifest.chunks[1].objects:
        store.delete(stored.key)
    loaded = load_context(model, text, store=store, level=LOSSLESS)
    assert [chunk.level for chunk in loaded.result.chunks] == [LOSSLESS, "text", LOSSLESS, LOSSLESS]
    for got, expected in zip(
        loaded.result.kv.planes(), capture(model, text[:256]).planes(), strict=True
    ):
        torch.testing.assert_close(got, expected[:, -got.shape[1] :], atol=5e-5, rtol=0)


def test_what_has_no_room_is_recomputed(tiny, text, store):
    model = tiny("llama")
    save_context(model, text, store=store, chunk_tokens=64)
    loaded = load_context(model, text, store=store, max_bytes=20_000)
    assert loaded.num_tokens == len(text) - 1
    assert "max_bytes" in loaded.result.chunks[0].reason
    with pytest.raises(ValueError, match="expected max_bytes"):
        load_context(model, text, store=store, max_bytes=-1)


def test_a_store_out_of_reach_costs_a_prefill(tiny, text):
    model = tiny("llama")
    unreachable = open_store("http://127.0.0.1:9/", timeout_s=0.2)
    loaded = load_context(model, text, store=unreachable)
    assert loaded.num_tokens == 289 and loaded.result.recompute_s > 0
    with pytest.raises(StoreError):
        save_context(model, text, store=unreachable)


def test_cheap_refusals_come_before_the_weights_are_read(tiny, text, tmp_path, monkeypatch):
    monkeypatch.setattr("cachegen.engines.transformers.identity.fingerprint", None)
    with pytest.raises(StoreError, match="there is no folder"):
        load_context(tiny("llama"), text, store=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="vocabulary"):
        load_context(tiny("llama"), [5000], store=tmp_path)
    with pytest.raises(ValueError, match="vocabulary"):
        save_context(tiny("llama"), [5000], store=tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_one_token(tiny, text, store):
    """It can be stored, but is left to the model."""
    save_context(tiny("llama"), text[:1], store=store)
    assert load_context(tiny("llama"), text[:1], store=store).num_tokens == 0
    assert load_context(tiny("llama"), text[:2], store=store).num_tokens in (0, 1)


def test_an_unknown_level_is_refused_with_those_there_are(tiny, text, store):
    save_context(tiny("llama"), text, store=store)
    with pytest.raises(ValueError, match="high, lossless; got 'finest'"):
        load_context(tiny("llama"), text, store=store, level="finest")


@pytest.mark.parametrize("name", ["qwen3-next", "falcon-h1"])
def test_recurrent_models_are_refused(tiny, text, store, name):
    with pytest.raises(UnsupportedCache, match="recurrent"):
        save_context(tiny(name), text, store=store)
    with pytest.raises(UnsupportedCache, match="recurrent"):
        load_context(tiny(name), text, store=store)
    assert list(store.list()) == []


def test_a_snapshot_of_a_finished_cache_cannot_lose_its_last_token(tiny, text, store):
    model = tiny("gemma3")
    finished = from_cache(model(text[None], use_cache=True).past_key_values)
    save(finished, tokens=text.tolist(), store=store, fingerprint=fingerprint(model))
    assert load_context(model, text, store=store, level=UNCALIBRATED_DEFAULT).num_tokens == 0


IN_A_NEW_PROCESS = """
import json, sys
import torch
from transformers import AutoModelForCausalLM
from cachegen.engines.transformers import load_context
folder, store, tokens = sys.argv[1], sys.argv[2], torch.tensor([json.loads(sys.argv[3])])
torch.set_num_threads(1)
model = AutoModelForCausalLM.from_pretrained(folder)
loaded = load_context(model, tokens, store=store, level="lossless")
out = model.generate(tokens, past_key_values=loaded.cache, max_new_tokens=16, do_sample=False)
print(json.dumps([loaded.num_tokens, out[0].tolist()]))
"""


def test_a_new_process_continues_where_this_one_stopped(new_model, text, tmp_path):
    folder, store = tmp_path / "model", tmp_path / "store"
    new_model("gemma3", dtype=torch.bfloat16).save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    expected = model.generate(text[None], max_new_tokens=16, do_sample=False)
    save_context(model, text, store=store, chunk_tokens=CHUNK)
    run = [sys.executable, "-W", "error", "-c", IN_A_NEW_PROCESS]
    run += [str(folder), str(store), json.dumps(text.tolist())]
    printed = subprocess.run(run, check=True, capture_output=True, text=True).stdout
    assert json.loads(printed) == [289, expected[0].tolist()]
