"""What counts as the tokens of one context, and what is refused by name."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, BatchEncoding, RobertaConfig

from cachegen.engines.transformers import load_context, save_context
from cachegen.engines.transformers.identity.fingerprint import fingerprint
from cachegen.engines.transformers.inputs import placeholders, token_ids
from cachegen.store import open_store

GREEDY = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
FORMS = {
    "list": [5, 6, 7],
    "tuple": (5, 6, 7),
    "array": np.array([5, 6, 7], dtype=np.uint32),
    "tensor": torch.tensor([5, 6, 7], dtype=torch.int32),
    "row": torch.tensor([[5, 6, 7]]),
    "tensors": [torch.tensor(5), torch.tensor(6), torch.tensor(7)],
    "encoding": BatchEncoding({"input_ids": [5, 6, 7], "attention_mask": [1, 1, 1]}),
    "encoding of tensors": BatchEncoding(
        {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.ones(1, 3)}
    ),
    "dict": {"input_ids": [5, 6, 7]},
}
REFUSED = {
    "text": ("Once upon", r"got text \('Once upon'\): tokenize it"),
    "bytes": (b"Once upon", "got text"),
    "words": (["Once", "upon"], r"got text \('Once'\)|got text"),
    "fractions": ([5, 6, 6.5], r"whole numbers, got float64 \(6.5\)"),
    "a word among ids": ([5, "upon"], r"got text \('upon'\): tokenize it"),
    "tensor of fractions": (torch.tensor([5.0, 6.0]), "whole numbers, got float32"),
    "bfloat16": (torch.tensor([5.0], dtype=torch.bfloat16), "whole numbers"),
    "flags": ([True, False], "whole numbers, got bool"),
    "nothing known": ([5, None], r"whole numbers, got object \(None\)"),
    "negative": ([5, -200], "at least 0, got -200"),
    "two rows": ([[5, 6], [7, 8]], r"one context, \(tokens,\), got \(2, 2\)"),
    "ragged rows": ([[5, 6], [7]], "rows of unequal length"),
    "no ids": ({"attention_mask": [1]}, r"`input_ids`, got \['attention_mask'\]"),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(form):
    assert token_ids(FORMS[form]) == (5, 6, 7)


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    tokens, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        token_ids(tokens)


def test_nothing_is_no_error_yet():
    assert token_ids([]) == token_ids(torch.tensor([])) == ()


@pytest.mark.parametrize("mask", [[1, 1, 1], [[1, 1, 1]], torch.ones(3), [True] * 3])
def test_masks_of_ones(mask):
    assert token_ids([5, 6, 7], mask) == (5, 6, 7)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([0, 1, 1], "got 1 of 3 tokens hidden, the first at 0"),
        ([1, 0, 0], "2 of 3 tokens hidden, the first at 1"),
        ([1, 1], r"a mask of 3 ones, got \(2,\)"),
        (torch.ones(1, 1, 3, 3), r"a mask of 3 ones, got \(1, 1, 3, 3\)"),
    ],
)
def test_masks_with_holes_are_refused(mask, message):
    for tokens, given in (
        ([5, 6, 7], mask),
        ({"input_ids": [5, 6, 7], "attention_mask": mask}, None),
    ):
        with pytest.raises(ValueError, match=message):
            token_ids(tokens, given)


@pytest.mark.parametrize("act", [save_context, load_context])
def test_padding_is_refused_where_the_mask_tells(tiny, act):
    store = open_store("memory:")
    padded = BatchEncoding({"input_ids": [[0, 0, 5, 6]], "attention_mask": [[0, 0, 1, 1]]})
    with pytest.raises(ValueError, match="stored without padding"):
        act(tiny("llama"), padded, store=store)
    with pytest.raises(ValueError, match="stored without padding"):
        act(tiny("llama"), [0, 0, 5, 6], attention_mask=[0, 0, 1, 1], store=store)
    assert list(store.list()) == []


def test_a_pad_token_inside_a_text_is_a_token(tiny, tokens):
    """`generate` without a mask hides it; with the mask of the README's call it does not."""
    model, store = tiny("llama"), open_store("memory:")
    ids = tokens.clone()
    ids[[7, 40]] = model.config.pad_token_id
    mask = torch.ones_like(ids[None])
    save_context(model, ids, store=store, attention_mask=mask)
    loaded = load_context(model, ids, store=store, level="lossless", attention_mask=mask)
    got = model.generate(ids[None], past_key_values=loaded.cache, attention_mask=mask, **GREEDY)
    assert torch.equal(got, model.generate(ids[None], attention_mask=mask, **GREEDY))


@pytest.mark.parametrize("act", [save_context, load_context])
def test_ids_out_of_the_vocabulary_are_refused_before_any_work(tiny, act):
    store = open_store("memory:")
    with pytest.raises(ValueError, match=r"ids below 128, the model's vocabulary, got 128"):
        act(tiny("llama"), [5, 128], store=store)
    with pytest.raises(ValueError, match="at least one token"):
        act(tiny("llama"), [], store=store)


def test_a_chat_template_result_is_taken_as_it_is(tiny, ascii_tokenizer):
    ascii_tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    messages = [{"role": "user", "content": "What is a chunk? " * 8}]
    prompt = ascii_tokenizer.apply_chat_template(messages, return_dict=True)
    store = open_store("memory:")
    save_context(tiny("llama"), prompt, store=store)
    loaded = load_context(tiny("llama"), prompt, store=store, level="lossless")
    assert loaded.num_tokens == len(prompt["input_ids"]) - 1


def test_placeholders_of_nested_settings(llava, tiny):
    assert placeholders(llava) == {120} and placeholders(tiny("llama")) == frozenset()


@pytest.mark.parametrize("act", [save_context, load_context])
def test_encodings_that_hold_more_than_tokens_are_refused_unless_named(tiny, tokens, act):
    model, store = tiny("gpt2"), open_store("memory:")
    kinds = torch.ones_like(tokens)
    with pytest.raises(ValueError, match=r"'token_type_ids' beside them.*`extra`"):
        act(model, {"input_ids": tokens, "token_type_ids": kinds}, store=store)
    act(model, {"input_ids": tokens, "token_type_ids": 0 * kinds, "length": [100]}, store=store)
    with pytest.raises(ValueError, match="'token_type_ids' beside"):
        encoding = {"input_ids": tokens, "token_type_ids": kinds}
        save_context(model, encoding, store=store, extra=b"kinds")


def roberta():
    config = RobertaConfig(
        vocab_size=128,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=202,
        is_decoder=True,
        pad_token_id=1,
        initializer_range=0.2,
    )
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("act", [save_context, load_context])
def test_padding_that_takes_no_position_is_refused(act):
    model, store = roberta(), open_store("memory:")
    act(model, list(range(2, 102)), store=store)
    with pytest.raises(ValueError, match=r"token 1 pads texts.*takes no position"):
        act(model, [5, 6, 1, 7], store=store)


def test_where_positions_begin_counts():
    model = roberta()
    other = roberta()
    other.load_state_dict(model.state_dict())
    assert fingerprint(other) == fingerprint(model)
    other.roberta.embeddings.padding_idx = 7
    assert fingerprint(other) != fingerprint(model)


@pytest.mark.parametrize("act", [save_context, load_context])
@pytest.mark.parametrize("name", ["gpt2", "roberta"])
def test_more_tokens_than_positions_are_refused_before_any_work(new_model, act, name):
    model = roberta() if name == "roberta" else new_model("gpt2", max_position_embeddings=200)
    store = open_store("memory:")
    act(model, [5] * 200, store=store)
    with pytest.raises(ValueError, match=r"at most 200 tokens, the positions in .*got 201"):
        act(model, [5] * 201, store=store)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"chunk_tokens": 63}, ValueError, "multiple of 64, got 63"),
        ({"levels": ["finest"]}, ValueError, "got 'finest'"),
        ({"levels": []}, ValueError, "at least one level"),
        ({"salt": "me"}, TypeError, "bytes as `salt`, got str"),
        ({"extra": "image"}, TypeError, "bytes as `extra`, got str"),
    ],
)
def test_options_are_checked_before_anything_is_prefilled(
    tiny, tokens, monkeypatch, options, error, message
):
    monkeypatch.setattr("cachegen.engines.transformers.contexts.timed_capture", None)
    with pytest.raises(error, match=message):
        save_context(tiny("llama"), tokens, store="memory:", **options)
