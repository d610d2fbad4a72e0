"""A small folder of data in the forms of the published files, and tokenizers."""

from __future__ import annotations

import json
import lzma
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from cachegen.evaluation.datasets.dataset import Request
from cachegen.refmodel import weights_path

TEMPLATE = (
    "{{ '<|bos|>' }}{% for message in messages %}[{{ message['role'] }}] "
    "{{ message['content'] | trim }} [end]{% endfor %}"
    "{% if add_generation_prompt %} [assistant] {% endif %}"
)
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. USER: "
)
TOPICS = ("The use of tea", "The art of rest", "The role of rain", "The price of salt")
WORDS = (
    "a",
    "grey",
    "ship",
    "came",
    "in",
    "by",
    "night",
    "and",
    "no",
    "one",
    "had",
    "heard",
    "of",
    "it",
)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(weights_path())


@pytest.fixture(scope="session")
def chat_tokenizer() -> Any:
    found = AutoTokenizer.from_pretrained(weights_path())
    found.chat_template = TEMPLATE
    return found


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name in ("longchat", "longbench", "text"):
        (folder / name).mkdir()
    _write_conversations(folder / "longchat")
    _write_lines(folder / "longchat" / "200_lines.jsonl")
    _write_longbench(folder / "longbench")
    (folder / "text" / "wikitext2_valid.txt").write_text(
        " \n" + "".join(_article(f"Article {index}", 90 + 10 * index) for index in range(20))
    )
    return folder


@pytest.fixture
def request_of(data: Path, tokenizer: Any) -> Callable[..., Request]:
    """A request, of 600 tokens and two cases unless said otherwise."""

    def make(**fields: Any) -> Request:
        given = {"data": data, "tokenizer": tokenizer, "context_tokens": 600, "count": 2, "seed": 0}
        return Request(**{**given, **fields})

    return make


def prose(num_words: int, *, seed: int) -> str:
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(num_words))


def conversation(topic: str) -> str:
    return (
        f"USER: I would like to discuss the topic of {topic[0].lower()}{topic[1:]}. \n ASSISTANT: "
        f"{prose(60, seed=len(topic))} \n USER: This is the end of our discussion on {topic}."
    )


def record(topics: Iterable[str]) -> str:
    topics = tuple(topics)
    return (
        f"Below is a record of our previous conversation on {len(topics)} different topics. At the "
        "end I will ask for the first topic. Now the record start. "
        + "".join(map(conversation, topics))
        + " Now the record ends. What is the first topic we discussed?"
    )


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    opened = lzma.open if path.suffix == ".xz" else open
    with opened(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def _write_conversations(folder: Path) -> None:
    orders = [TOPICS[first:] + TOPICS[:first] for first in range(3)]
    write_rows(
        folder / "cachegen_longchat.jsonl",
        ({"prompt": f"{VICUNA}{record(order)} ASSISTANT:", "label": order} for order in orders),
    )
    for name in ("5_topics", "10_topics"):
        write_rows(
            folder / f"{name}.jsonl",
            ({"prompt": record(order), "topics": order} for order in orders),
        )
    write_rows(
        folder / "conversations.jsonl",
        ({"topic": topic, "conversation": conversation(topic)} for topic in TOPICS),
    )


def _write_lines(path: Path) -> None:
    rows = []
    for seed in range(3):
        draw = random.Random(seed)
        names = [f"{word}-{seed}" for word in ("ad hoc", "wild", "calm", *WORDS[1:6])]
        lines = [f"line {name}: REGISTER_CONTENT is <{draw.randrange(50_000)}>\n" for name in names]
        text = "Below are lines. Now the record start:\n\n" + "".join(lines)
        asked = f"\nNow the record is over. What is in line {names[3 + seed]}? I need the number. "
        rows.append({"prompt": text + asked, "correct_line": lines[3 + seed]})
    write_rows(path, rows)


def _write_longbench(folder: Path) -> None:
    asked = {
        "triviaqa": "Question:\nWho came?\nAnswer:\n",
        "narrativeqa": "\n\nNow, answer the question based on the story. Question: Who?\n\nAnswer:",
        "qasper": "\n\nAnswer the question based on the passages.\n\nQuestion: Who?\nAnswer:",
        "multifieldqa_en": "\n\nNow, answer the following question.\n\nQuestion: Who?\nAnswer:",
        "lcc": "\nfor x in y:\n    print(x)\nNext line of code:\n",
    }
    for name, question in asked.items():
        rows = [
            {
                "prompt": f"Answer the question based on the text.\n{prose(words, seed=words)}"
                + question,
                "answers": ["a grey ship", "her"],
            }
            for words in (80, 1500, 40)
        ]
        write_rows(folder / f"{name}.jsonl.xz", rows)


def _article(title: str, num_words: int) -> str:
    return (
        f" = {title} = \n \n {prose(num_words, seed=num_words)} . \n \n = = More = = \n \n end \n"
    )
