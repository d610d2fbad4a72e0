"""Adapters count as far as they are switched on, with their scale; switched off, not at all."""

import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model

from cachegen.engines.transformers import load_context, save_context
from cachegen.engines.transformers.identity.fingerprint import fingerprint
from cachegen.errors import UnsupportedCache
from cachegen.store import open_store

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
LORA = {"r": 4, "target_modules": ["q_proj", "k_proj", "v_proj"], "init_lora_weights": False}


def adapted(model, **settings):
    torch.manual_seed(1)
    return get_peft_model(model, LoraConfig(**LORA, **settings)).eval()


def scale(model, factor):
    for module in model.modules():
        if hasattr(module, "set_scale"):
            module.set_scale("default", factor)


@pytest.fixture
def bare(new_model):
    return new_model("llama")


@pytest.fixture
def plain(bare):
    """The fingerprint of the model without adapters."""
    return fingerprint(bare)


def test_an_adapter_counts_and_switched_off_does_not(bare, plain):
    model = adapted(bare, modules_to_save=["mlp"])
    enabled = fingerprint(model)
    assert enabled != plain
    with model.disable_adapter():
        assert fingerprint(model) == plain
    assert fingerprint(model) == enabled
    model.base_model.disable_adapter_layers()
    assert fingerprint(model) == plain
    model.base_model.enable_adapter_layers()
    assert fingerprint(model) == enabled


def test_scales_count(bare, plain):
    model = adapted(bare)
    enabled = fingerprint(model)
    scale(model, 0.5)
    half = fingerprint(model)
    assert len({plain, enabled, half}) == 3
    scale(model, 1.0)
    assert fingerprint(model) == enabled


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_adapters_of_transformers_itself(bare, plain):
    bare.add_adapter(LoraConfig(**LORA), adapter_name="one")
    bare.add_adapter(LoraConfig(**{**LORA, "r": 2}), adapter_name="two")
    bare.eval()
    bare.set_adapter("one")
    one = fingerprint(bare)
    bare.set_adapter("two")
    two = fingerprint(bare)
    bare.disable_adapters()
    assert fingerprint(bare) == plain and len({plain, one, two}) == 3
    bare.enable_adapters()
    bare.set_adapter("one")
    assert fingerprint(bare) == one


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_idle_adapters_and_names_do_not_count(bare, new_model):
    """A server may load and drop other adapters, and call them as it likes."""
    model = adapted(bare)
    alone = fingerprint(model)
    model.add_adapter("other", LoraConfig(**{**LORA, "r": 2, "target_modules": ["o_proj"]}))
    model.add_adapter("third", LoraConfig(**{**LORA, "r": 2}))
    assert fingerprint(model.eval()) == alone
    model.set_adapter("third")
    assert fingerprint(model) != alone
    model.set_adapter("default")
    assert fingerprint(model) == alone
    model.delete_adapter("other")
    assert fingerprint(model) == alone
    other = new_model("llama")
    torch.manual_seed(1)
    renamed = get_peft_model(other, LoraConfig(**LORA), adapter_name="mine").eval()
    assert fingerprint(renamed) == alone


def test_adapters_that_add_up_count_in_their_order(bare):
    model = adapted(bare)
    one = fingerprint(model)
    model.add_adapter("other", LoraConfig(**{**LORA, "r": 2}))
    model.eval().base_model.set_adapter(["default", "other"])
    assert fingerprint(model) != one


def test_merged_adapters_count(bare, plain):
    model = adapted(bare)
    enabled = fingerprint(model)
    model.merge_adapter()
    assert fingerprint(model) not in (plain, enabled)
    model.unmerge_adapter()
    assert fingerprint(model.merge_and_unload()) not in (plain, enabled)


def test_equal_adapters_from_files(bare, new_model, tmp_path):
    model = adapted(bare)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(new_model("llama"), tmp_path).eval()
    assert fingerprint(loaded) == fingerprint(model)


def test_contexts_of_an_adapter_are_not_given_to_others(bare, tokens):
    store, model = open_store("memory:"), adapted(bare)
    save_context(model, tokens, store=store)
    assert load_context(model, tokens, store=store, level="lossless").num_tokens == 99
    with model.disable_adapter():
        assert load_context(model, tokens, store=store).num_tokens == 0
        save_context(model, tokens, store=store)
    scale(model, 0.5)
    assert load_context(model, tokens, store=store).num_tokens == 0
    without = model.unload()
    assert load_context(without, tokens, store=store, level="lossless").num_tokens == 99


@pytest.mark.parametrize("kind", [PromptTuningConfig, PrefixTuningConfig])
def test_virtual_tokens_are_refused_before_any_work(bare, tokens, kind):
    model = get_peft_model(bare, kind(num_virtual_tokens=4, task_type="CAUSAL_LM")).eval()
    store = open_store("memory:")
    for act in (save_context, load_context):
        with pytest.raises(UnsupportedCache, match=r"virtual tokens.*LoRA"):
            act(model, tokens, store=store)
    assert list(store.list()) == []


def test_adapters_that_decide_by_the_whole_text_are_refused(bare, tokens):
    """Activated LoRA begins where its invocation stands in the text."""
    settings = LoraConfig(**LORA, task_type="CAUSAL_LM", alora_invocation_tokens=[7, 8])
    model, store = get_peft_model(bare, settings).eval(), open_store("memory:")
    for act in (save_context, load_context):
        with pytest.raises(UnsupportedCache, match=r"decides by the whole text.*LoRA"):
            act(model, tokens, store=store)
    assert list(store.list()) == []
