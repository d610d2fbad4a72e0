"""Questions asked on top of a cache, against plain greedy generation."""

import numpy as np
import pytest
import torch

from cachegen.engines.transformers.cache import capture
from cachegen.engines.transformers.tasks import (
    Task,
    answers_right,
    first_tokens,
    is_answer,
    questions_answered,
    task_from_text,
    task_text,
)
from cachegen.kvcache import KVCache

CONTEXT = tuple(range(33, 93))
PROMPTS = ((65, 66, 67), (70, 35), (71, 72), (80, 81, 82), (90, 65), (66,))


def greedy(model, prompt):
    ids = [*CONTEXT, *prompt]
    with torch.no_grad():
        for _ in range(20):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return bytes(ids[-20:]).decode("ascii")


def word(text):
    """The beginning of a text that ends where a word could end."""
    text = text.strip()
    return next((text[:n] for n in range(1, 20) if not text[n : n + 1].isalnum()), text[:1])


@pytest.mark.parametrize("name", ["llama", "gemma3", "deepseek-v3"])
def test_right_is_what_greedy_generation_makes_right(tiny, ascii_tokenizer, name):
    """Beginnings of what is generated, and strings that are not."""
    model = tiny(name)
    texts = [greedy(model, prompt) for prompt in PROMPTS[:3]]
    asked = [
        (prompt, answer)
        for prompt, text in zip(PROMPTS, texts, strict=False)
        for answer in (word(text), text.strip()[:2], word(text)[:-1] + "~")
    ]
    task = Task("asked", CONTEXT, *(tuple(column) for column in zip(*asked, strict=True)))
    expected = [is_answer(texts[PROMPTS.index(prompt)], answer) for prompt, answer in asked]
    found = answers_right(model, [task], None, ascii_tokenizer)
    assert found.dtype == bool and found.tolist() == expected
    assert 0 < sum(expected) < len(expected)


def test_answers_behind_a_space(new_model, ascii_tokenizer):
    """A head made to begin with the space that parts an answer from its prompt."""
    model, prompt = new_model("llama", tie_word_embeddings=False), PROMPTS[0]
    head = model.get_output_embeddings().weight
    with torch.no_grad():
        out = model(torch.tensor([[*CONTEXT, *prompt]]), output_hidden_states=True)
        last = out.hidden_states[-1][0, -1]
        head[32] = last * (2 * out.logits[0, -1].max() / last.square().sum())
    text = greedy(model, prompt)
    assert text.startswith(" ") and text.strip()
    answers = (word(text), text.strip()[:2], "~", word(text)[:-1] + "~")
    task = Task("asked", CONTEXT, (prompt,) * 4, answers)
    expected = [is_answer(text, answer) for answer in answers]
    assert expected[0] and not any(expected[2:])
    assert answers_right(model, [task], None, ascii_tokenizer).tolist() == expected


def test_answers_come_from_the_coded_cache(tiny, ascii_tokenizer):
    model, seen = tiny("llama"), []
    answers = tuple(word(greedy(model, prompt)) for prompt in PROMPTS)
    tasks = [Task("asked", context, PROMPTS, answers) for context in (CONTEXT, CONTEXT[:9])]

    def forget(kv, tokens):
        seen.append((kv.num_tokens, tuple(tokens)))
        keys, values = (tuple(map(torch.zeros_like, planes)) for planes in (kv.keys, kv.values))
        return KVCache(keys, values, kv.num_tokens)

    found = answers_right(model, tasks, forget, ascii_tokenizer)
    assert seen == [(60, CONTEXT), (9, CONTEXT[:9])]
    assert len(found) == 12 and found[:6].mean() < 0.5
    caches = [capture(model, CONTEXT)] * 2
    given = answers_right(model, tasks, None, ascii_tokenizer, caches=caches)
    np.testing.assert_array_equal(given, [True] * 12)


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        (" 4821. And", "4821", True),
        ("4821", "4821", True),
        (" 48213", "4821", False),
        ("\n482", "4821", False),
        ("Rome<|eos|>", "Rome", True),
        ("Romeo", "Rome", False),
    ],
)
def test_an_answer_ends_where_it_ends(text, answer, right):
    assert is_answer(text, answer) is right


def test_tasks_from_text(ascii_tokenizer):
    task = task_from_text("asked", "abc", [("Q: ", " x "), ("R:", "yz")], tokenizer=ascii_tokenizer)
    assert first_tokens(ascii_tokenizer) == (1,)
    assert task.context == (1, *b"abc")
    assert task.prompts == (tuple(b"Q:"), tuple(b"R:")) and task.answers == ("x", "yz")
    assert bytes(task_text(task, ascii_tokenizer)) == b"abcQ: x.R: yz."
    ids, marks = questions_answered(task, ascii_tokenizer)
    assert bytes(t for t, marked in zip(ids, marks, strict=True) if marked) == b" x yz"


@pytest.mark.parametrize(("prompts", "answers"), [((), ()), (((1,),), ("a", "b")), (((),), ("a",))])
def test_questions_need_prompts_and_answers(prompts, answers):
    with pytest.raises(ValueError, match="at least one question"):
        Task("asked", (1, 2), prompts, answers)
