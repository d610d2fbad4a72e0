import pytest

from cachegen.refmodel import FAMILIES, exact_match, generate, load_text, text_names
from cachegen.refmodel.tasks import ORDINALS
from cachegen.refmodel.words import KEYS, VALUES

FILLER = load_text("heldout-chesterton")


def count_tokens(text: str) -> int:
    return len(text.split())


def make(family: str, seed: int = 1, num_tokens: int = 800):
    return generate(
        family, num_tokens=num_tokens, seed=seed, count_tokens=count_tokens, filler=FILLER
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_same_seed_same_task_other_seed_another(family: str) -> None:
    assert make(family) == make(family)
    assert make(family) != make(family, seed=2)


@pytest.mark.parametrize("family", ["passkey", "records", "lines"])
def test_each_prompt_stands_in_the_context_once_with_its_answer(family: str) -> None:
    task = make(family)
    assert len(task.questions) == 24
    for question in task.questions:
        prompt = question.prompt.strip()
        assert task.context.count(prompt) == 1
        after = task.context.split(prompt)[1]
        assert exact_match(after[:20], question.answer)


def test_topics_are_asked_in_their_order() -> None:
    task = make("topics", num_tokens=1600)
    places = {
        question.prompt.split()[4]: task.context.index(f"the topic of {question.answer}.")
        for question in task.questions
    }
    assert len(places) == 8
    in_order = sorted(places, key=lambda ordinal: places[ordinal])
    assert in_order == list(ORDINALS)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("num_tokens", [400, 1500])
def test_context_fills_but_keeps_the_budget(family: str, num_tokens: int) -> None:
    length = count_tokens(make(family, num_tokens=num_tokens).context)
    assert 0.6 * num_tokens < length <= num_tokens


@pytest.mark.parametrize(
    ("generated", "answer", "right"),
    [
        (" 4821.\nThe", "4821", True),
        (" 48213", "4821", False),
        (" 482", "4821", False),
        ("Paris", "Paris", True),
        ("", "4821", False),
    ],
)
def test_exact_match(generated: str, answer: str, right: bool) -> None:
    assert exact_match(generated, answer) is right


def test_unknown_family_and_empty_filler_are_refused() -> None:
    with pytest.raises(ValueError, match="family must be one of"):
        make("riddles")
    with pytest.raises(ValueError, match="filler must hold"):
        generate("passkey", num_tokens=400, seed=1, count_tokens=count_tokens, filler=" ")


def test_words_are_distinct() -> None:
    assert len(set(KEYS) | set(VALUES)) == len(KEYS) + len(VALUES)


def test_shipped_texts() -> None:
    kinds = {name.split("-")[0] for name in text_names()}
    assert kinds == {"train", "heldout", "eval"}
    assert sum(len(load_text(name).encode()) for name in text_names()) < 1_000_000
    with pytest.raises(ValueError, match="no shipped text"):
        load_text("missing")
