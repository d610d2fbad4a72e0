"""A few tokens tell whether a model is supported, before anything is prefilled."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    DynamicCache,
    MllamaForCausalLM,
    OpenAIGPTConfig,
    RecurrentGemmaConfig,
    T5Config,
    T5ForConditionalGeneration,
    XLMConfig,
    XLNetConfig,
)
from transformers.models.mllama.configuration_mllama import MllamaTextConfig

from cachegen.engines.transformers import load_context, save_context
from cachegen.engines.transformers import probe as hf_probe
from cachegen.engines.transformers.cache import capture, from_cache
from cachegen.engines.transformers.probe import support_of
from cachegen.errors import UnsupportedCache
from cachegen.store import open_store

SIZES = {"vocab_size": 128, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def bert(**settings):
    return AutoModelForCausalLM.from_config(
        BertConfig(**SIZES, intermediate_size=96, max_position_embeddings=512, **settings)
    )


def openai_gpt():
    return AutoModelForCausalLM.from_config(
        OpenAIGPTConfig(vocab_size=128, n_positions=512, n_embd=64, n_layer=2, n_head=4)
    )


def xlm():
    config = XLMConfig(vocab_size=128, emb_dim=64, n_layers=2, n_heads=4, causal=True)
    return AutoModelForCausalLM.from_config(config)


def xlnet():
    config = XLNetConfig(vocab_size=128, d_model=64, n_layer=2, n_head=4, d_inner=96)
    return AutoModelForCausalLM.from_config(config)


def mllama():
    config = MllamaTextConfig(
        **SIZES,
        intermediate_size=96,
        num_key_value_heads=2,
        cross_attention_layers=[1],
        pad_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    )
    return MllamaForCausalLM(config)


def recurrent_gemma():
    config = RecurrentGemmaConfig(
        **SIZES,
        intermediate_size=192,
        lru_width=64,
        attention_window_size=32,
        num_key_value_heads=1,
    )
    return AutoModelForCausalLM.from_config(config)


def t5():
    return T5ForConditionalGeneration(
        T5Config(vocab_size=128, d_model=64, d_kv=16, d_ff=96, num_layers=2, num_heads=4)
    )


REFUSED = {
    "openai-gpt": (openai_gpt, r"(computes every token anew|cannot read).*"),
    "xlm": (xlm, "."),
    "xlnet": (xlnet, "."),
    "mllama": (mllama, "."),
    "recurrent-gemma": (recurrent_gemma, "keys and values of tokens"),
    "t5": (t5, r"encoder's state.*decoder-only"),
    "bert": (bert, r"later tokens change.*is_decoder=True"),
    "bert-0.2": (lambda: bert(initializer_range=0.2), r"later tokens change"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("act", [save_context, load_context])
def test_refused_before_anything_is_prefilled(name, act, monkeypatch):
    make, message = REFUSED[name]
    model, store, read = make().eval(), open_store("memory:"), []
    forward = model.forward

    def counting(*args, **options):
        read.append(options["input_ids"].shape[1])
        return forward(*args, **options)

    with pytest.raises(UnsupportedCache, match=message):
        act(model, list(range(3, 103)), store=store)
    monkeypatch.setattr(model, "forward", counting)
    with pytest.raises(UnsupportedCache, match=message):
        act(model, list(range(3, 103)), store=store)
    assert sum(read) <= 2 * hf_probe._TOKENS and list(store.list()) == []


def test_an_encoder_made_a_decoder_works(tokens):
    model, store = bert(is_decoder=True, initializer_range=0.2).eval(), open_store("memory:")
    save_context(model, tokens, store=store)
    loaded = load_context(model, tokens, store=store, level="lossless")
    with torch.no_grad():
        own = model(tokens[None, :-1], use_cache=True).past_key_values
    for got, expected in zip(loaded.cache.layers, own.layers, strict=True):
        torch.testing.assert_close(got.keys, expected.keys, atol=5e-5, rtol=0)


def test_a_hybrid_with_attention_layers_only_is_taken_by_its_layers(new_model, tokens):
    """Its class says that it keeps recurrent state; this one does not."""
    model = new_model("qwen3-next", layer_types=["full_attention"] * 4)
    assert model._is_stateful
    store = open_store("memory:")
    save_context(model, tokens, store=store)
    loaded = load_context(model, tokens, store=store, level="lossless")
    assert loaded.num_tokens == 99
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    expected = model.generate(tokens[None], **options)
    got = model.generate(tokens[None], past_key_values=loaded.cache, **options)
    assert torch.equal(got, expected)


def test_state_that_the_cache_does_not_show_is_found_out(new_model):
    """A module that remembers what it read last."""
    model = new_model("llama")
    forward, remembered = model.model.layers[1].mlp.forward, []

    def recurrent(hidden):
        remembered.append(hidden[0, -1])
        return forward(hidden) + sum(remembered)

    model.model.layers[1].mlp.forward = recurrent
    with pytest.raises(UnsupportedCache, match="recurrent or other state"):
        support_of(model)


@pytest.mark.parametrize("layer", [0, 3])
def test_one_layer_that_looks_one_token_ahead_is_found_out(new_model, layer):
    model = new_model("llama")
    project = model.model.layers[layer].self_attn.k_proj
    project.register_forward_hook(lambda module, given, out: out + 0.1 * out.roll(-1, dims=1))
    with pytest.raises(UnsupportedCache, match="later tokens change"):
        support_of(model)


def test_one_layer_that_looks_one_token_back_is_found_out(new_model):
    """A convolution over tokens, whose last input is not in the cache."""
    model = new_model("llama")

    def shift(module, given, out):
        before = torch.nn.functional.pad(out, (0, 0, 1, 0))[:, :-1]
        return out + 0.1 * before

    model.model.layers[3].self_attn.v_proj.register_forward_hook(shift)
    with pytest.raises(UnsupportedCache, match="recurrent or other state"):
        support_of(model)


def test_what_changes_after_a_probe_is_probed_again(new_model, tokens, monkeypatch):
    model, store, probed = new_model("llama"), open_store("memory:"), []
    probe = hf_probe._probe
    monkeypatch.setattr(hf_probe, "_probe", lambda *found: probed.append(found) or probe(*found))
    save_context(model, tokens, store=store)
    save_context(model, tokens, store=store)
    assert len(probed) == 1
    with torch.no_grad():
        model.model.layers[1].self_attn.k_proj.weight[3] += 1
    save_context(model, tokens, store=store)
    assert len(probed) == 2
    model.config.is_causal = False
    for act in (save_context, load_context):
        with pytest.raises(UnsupportedCache, match="later tokens change"):
            act(model, tokens, store=store)


def test_a_model_that_changes_while_it_prefills_is_refused(new_model, tokens):
    model, store = new_model("llama"), open_store("memory:")
    save_context(model, tokens[:64], store=store, chunk_tokens=64)
    stored = set(store.list())

    def write(module, given):
        if given[0].shape[1] > 20:
            with torch.no_grad():
                module.weight[5] += 1

    model.model.layers[2].self_attn.k_proj.register_forward_pre_hook(write)
    with pytest.raises(ValueError, match="the model changed while it prefilled"):
        save_context(model, tokens, store=store, chunk_tokens=64)
    assert set(store.list()) == stored


def test_small_windows_and_vocabularies(new_model):
    support_of(new_model("mistral", sliding_window=4))
    support_of(new_model("llama", vocab_size=3, pad_token_id=0, bos_token_id=1, eos_token_id=2))


@pytest.mark.parametrize("act", [save_context, load_context])
@pytest.mark.parametrize("part", ["whole", "one module", "checkpointing"])
def test_training_mode_is_refused(new_model, tokens, act, part):
    model = new_model("gpt2")
    if part == "one module":
        model.transformer.h[2].attn.train()
    else:
        model.train()
    if part == "checkpointing":
        model.activation_checkpointing_enable()
    store = open_store("memory:")
    with pytest.raises(ValueError, match=r"training mode.*call model\.eval\(\)"):
        act(model, tokens, store=store)
    assert list(store.list()) == []
    save_context(model.eval(), tokens, store=store)


def test_types_that_differ_within_a_cache_are_refused(new_model, tokens):
    model = new_model("llama")
    model.model.layers[2].to(torch.float64)
    with pytest.raises(UnsupportedCache):
        save_context(model, tokens, store=open_store("memory:"))


def test_a_model_is_probed_once_and_again_in_another_type(new_model, monkeypatch):
    model, probed = new_model("llama"), []
    probe = hf_probe._probe
    monkeypatch.setattr(hf_probe, "_probe", lambda *found: probed.append(found) or probe(*found))
    assert support_of(model) is support_of(torch.compile(model, backend="eager"))
    assert len(probed) == 1
    support_of(model.to(torch.bfloat16))
    assert len(probed) == 2


def test_mixed_precision_is_another_context(new_model, tokens):
    model, store = new_model("gpt2"), open_store("memory:")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        save_context(model, tokens, store=store)
        kept = load_context(model, tokens, store=store, level="lossless")
        assert kept.num_tokens == 99 and kept.result.kv.dtype == torch.bfloat16
    assert load_context(model, tokens, store=store).num_tokens == 0


def pruned(model, tokens, kept):
    """A cache whose layers hold only some of their tokens."""
    with torch.no_grad():
        cache = model(tokens[None], use_cache=True).past_key_values
    assert isinstance(cache, DynamicCache)
    for layer, count in zip(cache.layers, kept, strict=True):
        layer.keys, layer.values = layer.keys[:, :, :count], layer.values[:, :, :count]
    return cache


@pytest.mark.parametrize("kept", [(100, 80, 60, 40), (90, 100, 100, 100)])
def test_pyramids_of_dropped_tokens_are_refused(tiny, tokens, kept):
    with pytest.raises(UnsupportedCache, match=r"expected full attention to hold 100.*dropped"):
        from_cache(pruned(tiny("llama"), tokens, kept))


def test_windows_that_tokens_were_dropped_from_are_refused(tiny, tokens):
    with pytest.raises(UnsupportedCache, match=r"layer 0: expected sliding.*hold 15.*got 10"):
        from_cache(pruned(tiny("gemma3"), tokens, (10, 100, 15, 100)))
    with pytest.raises(UnsupportedCache, match=r"layer 1: expected full attention to hold 100"):
        from_cache(pruned(tiny("gemma3"), tokens, (15, 60, 15, 60)))


def test_equal_pruning_is_refused_by_its_tokens(tiny, tokens):
    from cachegen.contexts.save import save

    kv = from_cache(pruned(tiny("llama"), tokens, (60,) * 4))
    with pytest.raises(ValueError, match="the 60 tokens of the context"):
        save(kv, tokens=tokens.tolist(), store=open_store("memory:"), fingerprint=bytes(32))


def test_capture_refuses_too(tokens):
    with pytest.raises(UnsupportedCache, match="later tokens change"):
        capture(bert().eval(), tokens)
