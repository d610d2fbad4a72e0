"""Generated tasks as tokens, put to the reference model."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cachegen.engines.transformers.tasks import answers_right, task_text
from cachegen.refmodel import load_text, weights_path
from cachegen.refmodel.measure import retrieval_tasks, task_windows


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(weights_path())


@pytest.fixture(scope="module")
def tasks(tokenizer: Any) -> Any:
    return retrieval_tasks(
        tokenizer,
        count=4,
        first_seed=50,
        filler=load_text("heldout-craik"),
        num_tokens=400,
        num_questions=6,
    )


def test_tasks_alternate_and_fit(tokenizer: Any, tasks: Any) -> None:
    assert all(task.context[0] == tokenizer.bos_token_id for task in tasks)
    assert all(250 < len(task.context) <= 400 for task in tasks)
    assert [len(task.prompts) for task in tasks] == [6] * 4
    asked = [tokenizer.decode(task.prompts[0]).split()[0] for task in tasks]
    assert asked == ["The", "Record"] * 2
    assert len({task.context for task in tasks}) == 4


def test_tokens_are_those_of_the_whole_text(tokenizer: Any, tasks: Any) -> None:
    for task in tasks:
        ids = task_text(task, tokenizer)
        assert tokenizer(tokenizer.decode(ids), add_special_tokens=False).input_ids == [*ids]


def test_windows_mark_the_answers(tokenizer: Any, tasks: Any) -> None:
    for task, window in zip(tasks, task_windows(tokenizer, tasks), strict=True):
        predicted = zip(window.continuation[1:], window.answers, strict=True)
        answers = tokenizer.decode([token for token, marked in predicted if marked])
        assert answers.split() == list(task.answers)


def test_one_pass_over_the_answers_is_greedy_generation(tokenizer: Any, tasks: Any) -> None:
    """The model answers nearly all; what it gets wrong is wrong in plain generation too."""
    model = AutoModelForCausalLM.from_pretrained(weights_path(), dtype=torch.float32).eval()
    found = answers_right(model, tasks, None, tokenizer).tolist()
    expected = []
    for task in tasks:
        for prompt, answer in zip(task.prompts, task.answers, strict=True):
            ids = torch.tensor([[*task.context, *prompt]])
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False
            )
            text = tokenizer.decode(out[0, ids.shape[1] :]).strip()
            expected.append(text.startswith(answer) and not text[len(answer)].isalnum())
    assert found == expected
    assert sum(found) >= 20
