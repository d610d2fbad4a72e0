import copy
import json
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cachegen.refmodel import DocumentTask, exact_match, generate, load_text, weights_path
from cachegen.refmodel.words import KEYS, VALUES

MAX_WEIGHTS_BYTES = 24_000_000


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(weights_path())


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(weights_path(), dtype=torch.float32).eval()


def ids_of(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return ids


def make(tokenizer: Any, family: str, num_tokens: int) -> DocumentTask:
    return generate(
        family,
        num_tokens=num_tokens,
        seed=7,
        count_tokens=lambda text: len(ids_of(tokenizer, text)),
        filler=load_text("heldout-craik"),
        num_questions=12,
    )


def answers(model: Any, tokenizer: Any, task: DocumentTask) -> list[str]:
    """Greedy continuations of at most six tokens; the context is prefilled once."""
    context = tokenizer(task.context).input_ids
    prefilled = model(torch.tensor([context]), use_cache=True, logits_to_keep=1).past_key_values
    generated = []
    for question in task.questions:
        ids = torch.tensor([context + ids_of(tokenizer, question.prompt)])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            past_key_values=copy.deepcopy(prefilled),
            max_new_tokens=6,
            do_sample=False,
        )
        generated.append(tokenizer.decode(out[0, ids.shape[1] :]))
    return generated


def test_each_digit_is_a_token(tokenizer: Any) -> None:
    digits = [tokenizer.decode([i]) for i in ids_of(tokenizer, "is 40821")][1:]
    assert [digit.strip() for digit in digits] == list("40821")


def test_a_context_begins_with_bos(tokenizer: Any) -> None:
    assert tokenizer("once").input_ids == [tokenizer.bos_token_id, *ids_of(tokenizer, "once")]


def test_keys_and_values_are_one_token(tokenizer: Any) -> None:
    assert all(len(ids_of(tokenizer, f" {word}")) == 1 for word in (*KEYS, *VALUES))


def test_text_survives_the_tokenizer(tokenizer: Any) -> None:
    text = load_text("heldout-anstey")[:20_000]
    assert tokenizer.decode(ids_of(tokenizer, text)) == text


def test_geometry_is_that_of_a_current_model(model: Any) -> None:
    config = json.loads((weights_path() / "config.json").read_text())
    kv_width = 2 * config["num_key_value_heads"] * config["head_dim"]
    assert config["num_hidden_layers"] >= 6
    assert config["num_key_value_heads"] < config["num_attention_heads"]
    assert kv_width <= 0.7 * config["hidden_size"]
    assert config["max_position_embeddings"] == 8192
    assert config["tie_word_embeddings"]
    assert config["dtype"] == "bfloat16"
    assert (weights_path() / "model.safetensors").stat().st_size <= MAX_WEIGHTS_BYTES


@torch.inference_mode()
@pytest.mark.parametrize("family", ["passkey", "records"])
def test_answers_questions_about_its_context(model: Any, tokenizer: Any, family: str) -> None:
    task = make(tokenizer, family, num_tokens=1024)
    pairs = zip(answers(model, tokenizer, task), task.questions, strict=True)
    assert sum(exact_match(text, question.answer) for text, question in pairs) >= 10
