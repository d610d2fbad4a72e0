"""Where a model's inputs and layers are: on one device, spread over several, or offloaded.

Two accelerators are stood in for by the CPU and the device `meta`, which keeps shapes only.
"""

import accelerate
import pytest
import torch
from transformers import AutoModelForCausalLM

from cachegen.engines.transformers import load_context, measure_prefill, save_context
from cachegen.engines.transformers.cache import capture, to_cache
from cachegen.engines.transformers.identity.fingerprint import fingerprint
from cachegen.engines.transformers.model import input_device, plain_model
from cachegen.engines.transformers.probe import Support
from cachegen.engines.transformers.rope import rope_map
from cachegen.errors import UnsupportedCache
from cachegen.store import open_store

CPU, META = torch.device("cpu"), torch.device("meta")
GREEDY = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
NAMES = ["llama", "gemma3", "gpt2"]


def spread(model, folder):
    """Every second layer on disk, the others in memory, as `device_map="auto"` does it."""
    layers = model.get_decoder().layers if hasattr(model.get_decoder(), "layers") else ()
    device_map = {name: "cpu" for name, _ in model.named_children()}
    if layers:
        device_map = {"model.embed_tokens": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
        device_map |= {"model.rotary_emb": "cpu"}
        device_map |= {
            f"model.layers.{index}": "disk" if index % 2 else "cpu" for index in range(len(layers))
        }
    return accelerate.dispatch_model(
        model, device_map, main_device="cpu", offload_dir=folder, force_hooks=True
    )


OFFLOADS = {
    "cpu": lambda model, folder: accelerate.cpu_offload(model, execution_device="cpu"),
    "disk": lambda model, folder: accelerate.disk_offload(model, folder, execution_device="cpu"),
    "spread": spread,
}


@pytest.fixture(params=OFFLOADS)
def offload(request, tmp_path):
    return lambda model: OFFLOADS[request.param](model, tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_an_offloaded_model_is_the_same_model(new_model, tiny, tokens, offload, name):
    plain, store = tiny(name), open_store("memory:")
    model = offload(new_model(name))
    assert fingerprint(model) == fingerprint(plain)
    save_context(model, tokens, store=store, chunk_tokens=64)
    for other in (model, plain):
        loaded = load_context(other, tokens, store=store, level="lossless")
        assert loaded.num_tokens == 99
        assert {layer.keys.device for layer in loaded.cache.layers} == {CPU}
        got = other.generate(tokens[None], past_key_values=loaded.cache, **GREEDY)
        assert torch.equal(got, plain.generate(tokens[None], **GREEDY))


def test_a_lost_chunk_of_an_offloaded_model_is_recomputed(new_model, tokens, offload):
    model, store = offload(new_model("llama")), open_store("memory:")
    manifest = save_context(model, tokens, store=store, chunk_tokens=64)
    for stored in manifest.chunks[0].objects:
        store.delete(stored.key)
    loaded = load_context(model, tokens, store=store)
    assert loaded.result.chunks[0].level == "text" and loaded.num_tokens == 99
    measure_prefill(model, tokens, lengths=(64,))


def test_rotations_of_an_offloaded_model(new_model, tiny, offload):
    assert rope_map(offload(new_model("llama"))) == rope_map(tiny("llama"))


def test_a_change_of_offloaded_weights_counts(new_model):
    model = accelerate.cpu_offload(new_model("llama"), execution_device="cpu")
    before = fingerprint(model)
    layer = model.model.layers[1].self_attn.k_proj
    layer._hf_hook.weights_map["weight"][16:32] += 1
    assert fingerprint(model) != before


def test_weights_that_are_nowhere_are_refused(new_model):
    model = new_model("llama").to("meta")
    with pytest.raises(UnsupportedCache, match=r"embed_tokens.weight is on the meta device"):
        fingerprint(model)


def test_every_layer_is_rebuilt_where_it_runs(tiny, tokens, monkeypatch):
    """`meta` stands in for a second accelerator."""
    model = tiny("llama")
    kv = capture(model, tokens)
    elsewhere = Support(CPU, (CPU, CPU, META, META))
    monkeypatch.setattr("cachegen.engines.transformers.cache.support_of", lambda model: elsewhere)
    cache = to_cache(kv, model)
    assert [layer.keys.device for layer in cache.layers] == [CPU, CPU, META, META]
    assert [layer.values.device for layer in cache.layers] == [CPU, CPU, META, META]


def test_inputs_go_where_the_embedding_runs(new_model, tmp_path):
    assert input_device(new_model("llama")) == CPU
    offloaded = accelerate.disk_offload(new_model("llama"), tmp_path, execution_device="cpu")
    assert offloaded.device == META and input_device(offloaded) == CPU


def test_wrappers_are_looked_through(tiny):
    model = tiny("llama")
    assert plain_model(torch.compile(model, backend="eager")) is model
    assert plain_model(model) is model


def test_a_compiled_model_shares_contexts_with_the_plain_one(new_model, tokens):
    model, store = new_model("llama"), open_store("memory:")
    compiled = torch.compile(model, backend="eager")
    save_context(compiled, tokens, store=store)
    assert load_context(model, tokens, store=store, level="lossless").num_tokens == 99
    loaded = load_context(compiled, tokens, store=store, level="lossless")
    got = compiled.generate(tokens[None], past_key_values=loaded.cache, **GREEDY)
    assert torch.equal(got, model.generate(tokens[None], **GREEDY))


def test_a_model_loaded_with_a_device_map(new_model, tokens, tmp_path):
    new_model("llama").save_pretrained(tmp_path / "model")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    device_map = {"model": "cpu", "lm_head": "disk"}
    spread_out = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", device_map=device_map, offload_folder=tmp_path / "weights"
    )
    store = open_store("memory:")
    save_context(spread_out, tokens, store=store)
    assert fingerprint(spread_out) == fingerprint(plain)
    assert load_context(plain, tokens, store=store).num_tokens == 99
