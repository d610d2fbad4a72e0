"""Equal for the same model wherever it runs; different for anything that changes its caches."""

import copy
import gc
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING, AutoModel, AutoModelForCausalLM

from cachegen.engines.transformers.identity import weights as hf_weights
from cachegen.engines.transformers.identity.fingerprint import fingerprint


def load(folder, **options):
    return AutoModelForCausalLM.from_pretrained(folder, **options)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, new_model):
    folder = tmp_path_factory.mktemp("model")
    new_model("gemma3").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def original(saved):
    return fingerprint(load(saved))


def test_equal_wherever_the_files_are(saved, original, tmp_path):
    load(saved).save_pretrained(tmp_path)
    assert fingerprint(load(tmp_path)) == original


def test_fine_tuned_files_differ(saved, original, tmp_path):
    tuned = load(saved)
    with torch.no_grad():
        tuned.model.layers[2].mlp.up_proj.weight.mul_(1.01)
    tuned.save_pretrained(tmp_path)
    assert fingerprint(load(tmp_path)) != original


def test_a_model_changed_in_memory_differs_from_its_files(saved, original):
    tuned = load(saved)
    with torch.no_grad():
        tuned.model.layers[2].mlp.up_proj.weight.mul_(1.01)
    assert fingerprint(tuned) != original


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": torch.bfloat16},
        {"sliding_window": 32},
        {"rms_norm_eps": 1e-5},
        {
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 2.0},
            }
        },
    ],
    ids=["dtype", "window", "norm", "rope"],
)
def test_settings_that_change_the_cache_differ(saved, original, options):
    assert fingerprint(load(saved, **options)) != original


def test_settings_that_do_not_change_the_cache_are_left_out(saved, original):
    model = load(saved, attn_implementation="eager")
    model.config.eos_token_id = 77
    model.config.use_cache = False
    assert fingerprint(model) == original


def test_frequencies_rounded_by_a_conversion_differ(saved):
    loaded, converted = load(saved, dtype=torch.bfloat16), load(saved).to(torch.bfloat16)
    assert fingerprint(loaded) != fingerprint(converted)


@pytest.mark.parametrize(("by", "counts"), [(1e-7, False), (1e-4, True)])
def test_frequencies_as_another_processor_rounds_them_are_the_same(new_model, by, counts):
    model = new_model("llama")
    before = fingerprint(model)
    model.model.rotary_emb.inv_freq.mul_(1 + by)
    assert (fingerprint(model) != before) is counts


def test_models_without_files_are_known_by_their_parameters(new_model):
    first = fingerprint(new_model("llama"))
    assert fingerprint(new_model("llama")) == first
    assert fingerprint(new_model("llama", seed=1)) != first
    changed = new_model("llama")
    with torch.no_grad():
        changed.model.norm.weight[-1] += 1
    assert fingerprint(changed) != first


def changed(model, name, region=..., by=1.0):
    """A parameter or buffer written to; what was there is returned."""
    tensor = model.get_parameter(name) if name.endswith("weight") else model.get_buffer(name)
    with torch.no_grad():
        before = tensor[region].clone()
        tensor[region] += by
    return before


@pytest.mark.parametrize("kind", ["bare", "gpt2", "llava"])
def test_a_change_in_memory_is_noticed_whatever_the_files_call_the_weights(
    new_model, llava, tmp_path, kind
):
    """Checkpoints whose names are not those in memory."""
    if kind == "llava":
        llava.save_pretrained(tmp_path)
        model = type(llava).from_pretrained(tmp_path)
    else:
        name = {"bare": "llama", "gpt2": "gpt2"}[kind]
        AutoModel.from_config(new_model(name).config).save_pretrained(tmp_path)
        model = AutoModelForCausalLM.from_pretrained(tmp_path)
    before = fingerprint(model)
    with torch.no_grad():
        next(iter(model.parameters()))[..., 3] += 1
    assert fingerprint(model) != before


REGIONS = {
    "a key head": ("model.layers.1.self_attn.k_proj.weight", slice(16, 32)),
    "one token's embedding": ("model.embed_tokens.weight", 77),
    "one number": ("model.layers.3.mlp.down_proj.weight", (63, 95)),
    "frequencies": ("model.rotary_emb.inv_freq", 3),
}


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("from_files", [True, False], ids=["files", "memory"])
def test_any_region_of_any_tensor_counts(new_model, tmp_path, region, from_files):
    model = new_model("llama")
    if from_files:
        model.save_pretrained(tmp_path)
        model = load(tmp_path)
    before = fingerprint(model)
    changed(model, *REGIONS[region])
    assert fingerprint(model) != before


@pytest.fixture(scope="module")
def changeable(new_model):
    return new_model("qwen3")


@given(data=st.data())
def test_a_random_region_of_a_random_tensor_counts(changeable, data):
    """Written so that PyTorch counts it, or behind its back: in small tensors never missed."""
    tensors = dict(changeable.named_parameters()) | dict(changeable.named_buffers())
    tensor = tensors[data.draw(st.sampled_from(sorted(tensors)))]
    flat = tensor.data.view(-1)
    first = data.draw(st.integers(0, len(flat) - 1))
    stop = data.draw(st.integers(first + 1, len(flat)))
    is_counted = data.draw(st.booleans())
    before, kept = fingerprint(changeable), flat[first:stop].clone()
    if is_counted:
        with torch.no_grad():
            tensor.view(-1)[first:stop] += 1
    else:
        flat[first:stop] += 1
    assert fingerprint(changeable) != before
    flat[first:stop] = kept
    assert fingerprint(changeable) == before == fingerprint(changeable, fresh=True)


def test_uncounted_writes_to_a_256th_of_a_tensor_are_seen_at_once(new_model):
    """Behind PyTorch's back: by the docstring never missed."""
    model = new_model("llama", vocab_size=8192)
    rows = model.model.embed_tokens.weight
    before = fingerprint(model)
    for first in range(0, 8192, 997):
        kept = rows.data[first : first + 32].clone()
        rows.data[first : first + 32] += 1
        assert fingerprint(model) != before
        rows.data[first : first + 32] = kept
        assert fingerprint(model) == before


def test_the_chance_to_miss_an_uncounted_write_is_what_is_stated(new_model):
    """Of 8,192 x 64 numbers, places are looked at in 512 parts: a write to 128 of the 1,024 in a
    part is missed with probability 7/8."""
    model = new_model("llama", vocab_size=8192)
    numbers = model.model.embed_tokens.weight.data.view(-1)
    before, missed, trials = fingerprint(model), 0, 128
    for part in range(trials):
        first = 4096 * part + 128 * (part % 8)
        kept = numbers[first : first + 128].clone()
        numbers[first : first + 128] += 1
        missed += fingerprint(model) == before
        numbers[first : first + 128] = kept
        assert fingerprint(model) == before
    assert 0.75 < missed / trials < 0.97


def test_weights_are_read_again_only_where_they_were_written_to(new_model, monkeypatch):
    model, read = new_model("llama"), []
    digest_of = hf_weights._digest_of
    monkeypatch.setattr(hf_weights, "_digest_of", lambda v: read.append(v.shape) or digest_of(v))
    first = fingerprint(model)
    assert len(read) == len(list(model.parameters()))
    read.clear()
    assert fingerprint(model) == first and not read
    changed(model, "model.layers.1.self_attn.k_proj.weight")
    assert fingerprint(model) != first and read == [torch.Size([32, 64])]
    read.clear()
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    fingerprint(model)
    assert read == [torch.Size([128, 64])]


def edit(name, value):
    def act(model):
        part, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(part), attribute, value)

    return act


EDITED = {
    "scale of an attention": edit("model.layers.1.self_attn.scaling", 0.3),
    "causality of an attention": edit("model.layers.1.self_attn.is_causal", False),
    "epsilon of a norm": edit("model.layers.2.input_layernorm.variance_epsilon", 1.0),
    "an activation": edit("model.layers.3.mlp.act_fn", torch.nn.ReLU()),
    "a layer less": lambda model: model.model.layers.__delitem__(3),
}


@pytest.mark.parametrize("what", EDITED)
def test_what_modules_hold_counts(new_model, what):
    model = new_model("llama")
    before = fingerprint(model)
    EDITED[what](model)
    assert fingerprint(model) != before


def test_tensors_that_are_no_parameters_count(new_model):
    model = new_model("llama")
    norm = model.model.layers[1].input_layernorm
    norm.steering = torch.ones(64)
    before = fingerprint(model)
    norm.steering[3] += 1
    assert fingerprint(model) != before


def test_attentions_count_where_they_differ_by_more_than_rounding(new_model):
    models = [new_model("llama"), new_model("llama")]
    falcon = {"model_type": "falcon", "alibi": True, "vocab_size": 128, "hidden_size": 64}
    falcon |= {"num_hidden_layers": 2, "num_attention_heads": 4}
    config = CONFIG_MAPPING[falcon.pop("model_type")](**falcon)
    for attention in ("eager", "sdpa"):
        torch.manual_seed(0)
        made = AutoModelForCausalLM.from_config(
            copy.deepcopy(config), attn_implementation=attention
        ).eval()
        models.append(made)
    models[1].set_attn_implementation("eager")
    prints = list(map(fingerprint, models))
    assert prints[0] == prints[1] and prints[2] != prints[3]


def test_another_class_counts(new_model):
    model = new_model("llama")
    before = fingerprint(model)
    model.__class__ = type("OtherLlama", (type(model),), {})
    assert fingerprint(model) != before


def test_a_parameter_in_the_place_of_another_is_read(new_model):
    """Memory that is free again is used again: the same address, the same number of writes."""
    model = new_model("llama", vocab_size=4096)
    embedding = model.model.embed_tokens
    before = fingerprint(model)
    for row in range(700, 720):
        rows = embedding.weight.detach().clone()
        rows[row] += 1
        embedding.weight = None
        embedding.weight = torch.nn.Parameter(rows.clone())
        after = fingerprint(model)
        assert after != before
        before = after


def test_a_default_device_does_not_matter(new_model):
    model, other = new_model("llama"), new_model("llama")
    with torch.device("meta"):
        assert fingerprint(model) == fingerprint(other)
    assert fingerprint(model, fresh=True) == fingerprint(other)


def test_many_threads_read_the_weights_once(new_model, monkeypatch):
    model, read = new_model("llama"), []
    digest_of = hf_weights._digest_of
    monkeypatch.setattr(hf_weights, "_digest_of", lambda v: read.append(v.shape) or digest_of(v))
    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(lambda _: fingerprint(model), range(6)))) == 1
    assert len(read) == len(list(model.parameters()))


def test_nothing_is_kept_of_a_model_that_is_gone(new_model):
    model = new_model("llama")
    fingerprint(model)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_running_a_model_changes_nothing(new_model, tokens):
    """Not even where a pass sets the frequencies by the length of its text."""
    for name in ("llama", "llama-longrope", "llama-dynamic", "gpt2"):
        model = new_model(name, max_position_embeddings=128)
        before = fingerprint(model)
        longer = torch.cat((tokens, tokens[:28])) if name == "gpt2" else tokens.repeat(3)
        with torch.no_grad():
            model(longer[None])
        assert fingerprint(model) == before == fingerprint(model, fresh=True)


def quantized(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)


def test_packed_weights_count(new_model):
    plain = new_model("llama")
    packed = quantized(plain)
    assert fingerprint(packed) != fingerprint(plain)
    assert fingerprint(packed) == fingerprint(quantized(plain))
    changed(plain, "model.layers.1.self_attn.k_proj.weight", slice(16, 32))
    other = quantized(plain)
    assert fingerprint(other) != fingerprint(packed)
    layer = packed.model.layers[1].self_attn.k_proj
    layer.set_weight_bias(other.model.layers[1].self_attn.k_proj.weight(), None)
    assert fingerprint(packed) == fingerprint(other)


def test_mixed_precision_counts(new_model):
    model = new_model("llama")
    before = fingerprint(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = fingerprint(model)
    with torch.autocast("cpu", dtype=torch.float16):
        assert len({before, mixed, fingerprint(model)}) == 3
    with torch.autocast("cpu", enabled=False):
        assert fingerprint(model) == before


@pytest.mark.parametrize("how", ["whole", "in place", "a layer"])
def test_compiling_changes_nothing(new_model, how):
    model = new_model("llama")
    before = fingerprint(model)
    if how == "whole":
        model = torch.compile(model, backend="eager")
    elif how == "in place":
        model.compile(backend="eager")
    else:
        model.model.layers[2] = torch.compile(model.model.layers[2], backend="eager")
    assert fingerprint(model) == before


def test_settings_of_an_image_encoder_count(llava):
    other = type(llava)(copy.deepcopy(llava.config)).eval()
    other.load_state_dict(llava.state_dict())
    assert fingerprint(other) == fingerprint(llava)
    other.config.vision_feature_layer = -1
    assert fingerprint(other) != fingerprint(llava)
