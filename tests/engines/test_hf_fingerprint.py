"""Equal for the same model wherever it runs; different for anything that changes its caches."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from cachegen.engines.hf_fingerprint import fingerprint


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


def test_models_without_files_are_known_by_their_parameters(new_model):
    first = fingerprint(new_model("llama"))
    assert fingerprint(new_model("llama")) == first
    assert fingerprint(new_model("llama", seed=1)) != first
    changed = new_model("llama")
    with torch.no_grad():
        changed.model.norm.weight[-1] += 1
    assert fingerprint(changed) != first
