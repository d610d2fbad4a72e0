"""Training sequences: natural text, drills, and generated tasks dense with questions.

Every token has a kind: 0 is not learnt (arbitrary where it stands), 1 is text, 2 is an answer.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from corpus_tokens import Corpus, Tokens
from transformers import PreTrainedTokenizerFast

from cachegen.refmodel.tasks import (
    TOPICS_HEADER,
    Fact,
    line_facts,
    passkey_facts,
    record_facts,
    topic_facts,
)
from cachegen.refmodel.words import KEYS, VALUES

IGNORE, TEXT, ANSWER = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the curriculum: up to this share of all tokens, sequences of `length`.

    The kinds of sequence are drawn by their weights; in those of tasks, at most `recall_share` of
    the tokens state facts, and about as many ask for them.
    """

    until_share: float
    length: int
    text: float
    drill: float = 0.0
    passkey: float = 0.0
    records: float = 0.0
    lines: float = 0.0
    topics: float = 0.0
    recall_share: float = 0.4


class Sampler:
    """Draws training sequences; without state from batch to batch."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, corpus: Corpus) -> None:
        self.rng = random.Random()
        self._corpus = corpus
        self._backend = tokenizer.backend_tokenizer
        self._bos = tokenizer.bos_token_id
        self._vocab_size = len(tokenizer)
        self._keys = [int(self._encode(f" {word}")[0]) for word in KEYS]
        self._words = [int(self._encode(f" {word}")[0]) for word in VALUES]
        self._digits = [int(self._encode(digit)[0]) for digit in "0123456789"]
        first_digits = [int(self._encode(f" {digit}")[0]) for digit in "0123456789"]
        self._arbitrary = np.zeros(self._vocab_size, dtype=bool)
        self._arbitrary[self._keys + self._words + self._digits + first_digits] = True

    def batch(self, stage: Stage, *, seed: str, num_sequences: int) -> tuple[Tokens, Tokens]:
        """Tokens and kinds, each (num_sequences, length + 1); one seed, one batch."""
        self.rng.seed(seed)
        sequences = [self.sequence(stage) for _ in range(num_sequences)]
        ids, kinds = zip(*sequences, strict=True)
        return np.stack(ids), np.stack(kinds)

    def sequence(self, stage: Stage) -> tuple[Tokens, Tokens]:
        makers: list[Callable[[Stage], list[tuple[Tokens, Tokens]]]]
        makers = [self._text, self._drill, self._passkey, self._records, self._lines, self._topics]
        weights = [stage.text, stage.drill, stage.passkey, stage.records, stage.lines, stage.topics]
        pieces = self.rng.choices(makers, weights)[0](stage)
        ids = np.concatenate([[self._bos], *(ids for ids, _ in pieces)])
        kinds = np.concatenate([[IGNORE], *(kinds for _, kinds in pieces)])
        return ids[: stage.length + 1], kinds[: stage.length + 1]

    def _encode(self, text: str) -> Tokens:
        return np.array(self._backend.encode(text, add_special_tokens=False).ids)

    def _text(self, stage: Stage) -> list[tuple[Tokens, Tokens]]:
        start = self.rng.randrange(len(self._corpus.train) - stage.length)
        ids = self._corpus.train[start : start + stage.length]
        return [(ids, np.full(len(ids), TEXT))]

    def _drill(self, stage: Stage) -> list[tuple[Tokens, Tokens]]:
        """Keys, a token of glue, values: stated once, then again and again in other orders."""
        rng = self.rng
        glue = rng.randrange(2, self._vocab_size)
        values, num_values = rng.choice([(self._words, 1), (self._digits, 4)])
        facts = [
            np.array([key, glue, *rng.choices(values, k=num_values)])
            for key in rng.sample(self._keys, rng.randint(3, 16))
        ]
        again = np.array([IGNORE, TEXT] + [ANSWER] * num_values)
        pieces = [(ids, np.zeros_like(again)) for ids in facts]
        while len(pieces) * len(again) <= stage.length:
            pieces += [(ids, again) for ids in rng.sample(facts, len(facts))]
        return pieces

    def _passkey(self, stage: Stage) -> list[tuple[Tokens, Tokens]]:
        return self._hidden(stage, lambda n: passkey_facts(self.rng, num_facts=n), mean_tokens=11)

    def _records(self, stage: Stage) -> list[tuple[Tokens, Tokens]]:
        return self._hidden(stage, lambda n: record_facts(self.rng, num_facts=n), mean_tokens=6)

    def _lines(self, stage: Stage) -> list[tuple[Tokens, Tokens]]:
        return self._hidden(stage, lambda n: line_facts(self.rng, num_facts=n), mean_tokens=17)

    def _topics(self, stage: Stage) -> list[tuple[Tokens, Tokens]]:
        """Conversations with filler for talk, then questions about their order."""
        rng = self.rng
        facts = topic_facts(rng, num_facts=rng.randint(2, max(2, min(8, stage.length // 128))))
        share = stage.length * (1 - stage.recall_share) / len(facts)
        pieces = [self._partly_learnt(TOPICS_HEADER)]
        for fact in facts:
            pieces.append(self._partly_learnt(f"\n{fact.statement}\nASSISTANT:"))
            pieces += self._filler(share)
        return pieces + self._questions(stage, pieces, facts)

    def _hidden(
        self, stage: Stage, make_facts: Callable[[int], list[Fact]], *, mean_tokens: int
    ) -> list[tuple[Tokens, Tokens]]:
        """Facts among filler, some asked on the way; then questions to the end of the sequence."""
        rng, share = self.rng, stage.recall_share
        most = max(3, int(stage.length * share / mean_tokens))
        facts = make_facts(rng.randint(max(2, most // 3), most))
        body = stage.length - len(facts) * mean_tokens
        pieces: list[tuple[Tokens, Tokens]] = []
        slots = [*facts, *([None] * rng.randint(0, len(facts)))]
        rng.shuffle(slots)
        stated: list[Fact] = []
        room = body - len(slots) * mean_tokens
        for slot in slots:
            pieces += self._filler(2 * room * rng.random() / len(slots))
            if slot is not None:
                stated.append(slot)
                pieces.append(self._partly_learnt(f" {slot.statement}"))
            elif stated:
                pieces.append(self._asked(rng.choice(stated), inline=True))
        return pieces + self._questions(stage, pieces, facts)

    def _questions(
        self, stage: Stage, before: list[tuple[Tokens, Tokens]], facts: list[Fact]
    ) -> list[tuple[Tokens, Tokens]]:
        """Questions about the facts, in ever new orders, to the end of the sequence."""
        missing = stage.length - sum(len(ids) for ids, _ in before)
        pieces: list[tuple[Tokens, Tokens]] = []
        while missing >= 0:
            pieces += [self._asked(f, inline=False) for f in self.rng.sample(facts, len(facts))]
            missing -= sum(len(ids) for ids, _ in pieces[-len(facts) :])
        return pieces

    def _filler(self, num_tokens: float) -> list[tuple[Tokens, Tokens]]:
        """Consecutive sentences of at most `num_tokens` tokens."""
        ends = self._corpus.sentence_ends
        first = self.rng.randrange(len(ends) - 1)
        last = int(np.searchsorted(ends, ends[first] + num_tokens, side="right")) - 1
        ids = self._corpus.train[ends[first] : ends[last]]
        return [(ids, np.full(len(ids), TEXT))]

    def _partly_learnt(self, text: str) -> tuple[Tokens, Tokens]:
        """Text whose keys and values are arbitrary, and so not learnt."""
        ids = self._encode(text)
        return ids, np.where(self._arbitrary[ids], IGNORE, TEXT)

    def _asked(self, fact: Fact, *, inline: bool) -> tuple[Tokens, Tokens]:
        prompt = fact.question.prompt
        if inline:
            prompt = f" {prompt.lstrip()}"
        answer = fact.question.answer if prompt.endswith("<") else f" {fact.question.answer}"
        ends = ">" if prompt.endswith("<") else "."
        asked, kinds = self._partly_learnt(prompt)
        replied = self._encode(answer + ends)
        answered = np.full(len(replied), ANSWER)
        return np.concatenate([asked, replied]), np.concatenate([kinds, answered])
