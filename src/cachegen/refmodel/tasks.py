"""Generated long-context tasks: texts with facts in them, questions, exactly checkable answers.

This module knows no model: the caller gives a function that counts tokens, and the filler. The same
seed gives the same task. A question's prompt is text to append to the context; its greedy
continuation must be the answer.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from cachegen.refmodel.words import KEYS, VALUES

FAMILIES = ("passkey", "records", "lines", "topics")

CountTokens = Callable[[str], int]

LINES_HEADER = (
    "Below is a record of lines I want you to remember. Each line begins with a line index and"
    " contains a REGISTER_CONTENT at the end of the line as a numerical value."
)
TOPICS_HEADER = (
    "Below is a record of our previous conversation on many different topics. You are the"
    " ASSISTANT, and I am the USER. Memorize each topic. Now the record start."
)
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
TOPIC_FORMS = ("the history of", "the role of", "the future of", "the benefits of", "the art of")


@dataclass(frozen=True, slots=True)
class Question:
    """One question: append `prompt` to the context, continue greedily, compare with `answer`."""

    family: str
    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class DocumentTask:
    """A context and the questions that it answers."""

    family: str
    context: str
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True)
class Fact:
    """A statement for the context and the question that asks for it."""

    statement: str
    question: Question


def exact_match(generated: str, answer: str) -> bool:
    """True if the continuation is the answer, ending where the answer ends."""
    text = generated.strip()
    return text.startswith(answer) and not text[len(answer) : len(answer) + 1].isalnum()


def generate(
    family: str,
    *,
    num_tokens: int,
    seed: int,
    count_tokens: CountTokens,
    filler: str,
    num_questions: int = 24,
) -> DocumentTask:
    """A context of at most about `num_tokens` tokens, and up to `num_questions` questions.

    The default number of questions is arbitrary: 8 to 48 do.
    """
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {FAMILIES}, got {family!r}")
    rng = random.Random(f"{family}/{num_tokens}/{seed}")
    if family == "passkey":
        facts = passkey_facts(rng, num_facts=min(num_questions, num_tokens // 16))
        context = hide(facts, rng, num_tokens=num_tokens, count_tokens=count_tokens, filler=filler)
    elif family == "records":
        facts = record_facts(rng, num_facts=num_tokens // 24)
        context = hide(facts, rng, num_tokens=num_tokens, count_tokens=count_tokens, filler=filler)
    elif family == "lines":
        facts = _fitting_lines(rng, num_tokens, count_tokens)
        context = "\n".join([LINES_HEADER, *(fact.statement for fact in facts)])
    else:
        facts = topic_facts(rng, num_facts=max(2, min(len(ORDINALS), num_tokens // 200)))
        context = _conversation(facts, rng, num_tokens, count_tokens, filler)
    asked = rng.sample(facts, min(num_questions, len(facts)))
    return DocumentTask(family, context, tuple(fact.question for fact in asked))


def passkey_facts(rng: random.Random, *, num_facts: int) -> list[Fact]:
    """Four-digit passkeys, each under a one-token name."""
    facts = []
    for key in _distinct(rng, KEYS, num_facts):
        prompt, answer = f"The passkey of {key} is", str(rng.randrange(1000, 10000))
        facts.append(Fact(f"{prompt} {answer}.", Question("passkey", f"\n{prompt}", answer)))
    return facts


def record_facts(rng: random.Random, *, num_facts: int) -> list[Fact]:
    """One-token keys with one-token values."""
    facts = []
    for key in _distinct(rng, KEYS, num_facts):
        prompt, answer = f"Record {key}:", rng.choice(VALUES)
        facts.append(Fact(f"{prompt} {answer}.", Question("records", f"\n{prompt}", answer)))
    return facts


def line_facts(rng: random.Random, *, num_facts: int) -> list[Fact]:
    """Numbered lines with a register's content, in LongChat's words."""
    facts = []
    for index in rng.sample(range(1, max(1000, 2 * num_facts)), num_facts):
        prompt, answer = f"line {index}: REGISTER_CONTENT is <", str(rng.randrange(1000, 10000))
        facts.append(Fact(f"{prompt}{answer}>", Question("lines", f"\n{prompt}", answer)))
    return facts


def topic_facts(rng: random.Random, *, num_facts: int) -> list[Fact]:
    """The openings of conversations, asked for by their order."""
    facts = []
    for ordinal, key in zip(ORDINALS, _distinct(rng, KEYS, num_facts), strict=False):
        topic = f"{rng.choice(TOPIC_FORMS)} {key}"
        opening = f"USER: I would like to discuss the topic of {topic}."
        prompt = f"\nUSER: What is the {ordinal} topic we discussed?\nASSISTANT: It is"
        facts.append(Fact(opening, Question("topics", prompt, topic)))
    return facts


def hide(
    facts: list[Fact],
    rng: random.Random,
    *,
    num_tokens: int,
    count_tokens: CountTokens,
    filler: str,
) -> str:
    """The facts' statements at random places between the sentences of a filler excerpt."""
    statements = [fact.statement for fact in facts]
    budget = num_tokens - sum(count_tokens(f" {statement}") for statement in statements)
    sentences = excerpt(filler, rng, num_tokens=budget, count_tokens=count_tokens)
    for statement in statements:
        sentences.insert(rng.randint(0, len(sentences)), statement)
    return " ".join(sentences)


def excerpt(
    filler: str, rng: random.Random, *, num_tokens: int, count_tokens: CountTokens
) -> list[str]:
    """Consecutive sentences of `filler` from a random place on, of at most `num_tokens` tokens."""
    if not filler.strip():
        raise ValueError("filler must hold some sentences of text, got none")
    start = rng.randrange(len(filler))
    window = (filler[start:] + " " + filler)[: 8 * max(num_tokens, 0) + 2000]
    chosen: list[str] = []
    for sentence in re.split(r"(?<=[.!?])\s+", " ".join(window.split()))[1:]:
        num_tokens -= count_tokens(f" {sentence}")
        if num_tokens < 0:
            break
        chosen.append(sentence)
    return chosen


def _distinct(rng: random.Random, words: tuple[str, ...], count: int) -> list[str]:
    return rng.sample(words, min(count, len(words)))


def _fitting_lines(rng: random.Random, num_tokens: int, count_tokens: CountTokens) -> list[Fact]:
    budget = num_tokens - count_tokens(LINES_HEADER)
    fitting = []
    for fact in line_facts(rng, num_facts=num_tokens // 5):
        budget -= count_tokens(f"\n{fact.statement}")
        if budget < 0:
            break
        fitting.append(fact)
    return fitting


def _conversation(
    facts: list[Fact], rng: random.Random, num_tokens: int, count_tokens: CountTokens, filler: str
) -> str:
    openings = [f"{fact.statement}\nASSISTANT:" for fact in facts]
    fixed = sum(count_tokens(f"\n{opening}") for opening in openings) + count_tokens(TOPICS_HEADER)
    share = (num_tokens - fixed) // len(facts)
    turns = [TOPICS_HEADER]
    for opening in openings:
        talk = excerpt(filler, rng, num_tokens=share, count_tokens=count_tokens)
        turns.append(" ".join([opening, *talk]))
    return "\n".join(turns)
