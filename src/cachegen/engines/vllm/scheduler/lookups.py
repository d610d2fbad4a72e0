"""Lookups ahead of the scheduler: asked when a request arrives, answered from memory.

The scheduler's path never waits for a store, and hashes nothing.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from cachegen.bitstream.identity import (
    LINK_TOKENS,
    Ids,
    PrefixKey,
    tokens_from_bytes,
    tokens_to_bytes,
)
from cachegen.codec.levels import EXACT_LEVELS
from cachegen.codec.profile import Profile
from cachegen.contexts.lookup import Found, found_in, look_up
from cachegen.contexts.objects import Profiles
from cachegen.engines.vllm.scheduler.plan import Prospect
from cachegen.engines.vllm.threads import start_thread
from cachegen.errors import CacheGenError
from cachegen.policy.controller import ChunkState
from cachegen.store import Store
from cachegen.store.protocol import Hangup

# Lookups are waits: more threads than cores. Arbitrary: 4 to 16 do.
_THREADS = 8
# After a store has not answered in time, requests wait for it this long, until it answers again or
# for so many seconds. Arbitrary: 0.01 to 0.2 s, and 2 to 60 s, do.
_IMPATIENT_S, _IMPATIENT_FOR_S = 0.05, 10.0
# Later answers are of use to nobody, and other lookups would wait. Arbitrary: 5 to 60 s do.
_GIVEN_UP_S = 10.0


@dataclass(slots=True, eq=False)
class Answer:
    """What is known of a prompt; the fields after `began_s` once `is_there` is true.

    Attributes:
        asked_s: when it was asked for, on `time.monotonic`.
        began_s: when a thread began to ask the store; others may be before it.
        tokens: uint32, little-endian.
        prospect: what can be loaded; None where nothing is stored, or the store failed.
        saved_stop: the end of the last stored chunk; None where the store failed.
        saved_exact: whether those chunks are exact.
        ids, inexact_ids: of the prompt's prefixes; of those that are not exact, too.
        failure: the kind of the store's failure.
    """

    asked_s: float
    began_s: float = float("inf")
    is_there: bool = False
    tokens: bytes = b""
    prospect: Prospect | None = None
    saved_stop: int | None = None
    saved_exact: bool = True
    ids: Ids | None = None
    inexact_ids: Ids | None = None
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt to look up.

    Attributes:
        tokens: its ids.
        keys: of every rank, whose contexts are apart; a prefix counts where all ranks have it.
    """

    tokens: Sequence[int]
    keys: tuple[PrefixKey, ...]


@dataclass(frozen=True, slots=True, eq=False)
class LookupSettings:
    """How to look up: see `ConnectorConfig`."""

    store: Store
    profile: Profile | None
    level: str | None
    block_tokens: int
    lookup_s: float


@dataclass(slots=True, eq=False)
class _Asker:
    """A thread: what it waits for, and since when."""

    hangup: Hangup = field(default_factory=Hangup)
    began_s: float = float("inf")
    is_given_up: bool = False

    def work(self, questions: queue.SimpleQueue[Callable[[], None]]) -> None:
        while not self.is_given_up:
            ask = questions.get()
            self.hangup, self.began_s = Hangup(), time.monotonic()
            with self.hangup.heeded():
                ask()
            self.began_s = float("inf")

    def give_up(self) -> None:
        self.is_given_up = True
        self.hangup.end()


@dataclass(slots=True, eq=False)
class Lookups:
    """Threads that ask the store; what they have read of profiles is kept.

    Each asks by itself: another thread that watches its time would cost a lookup a third of its
    own. One that has not come back in time is replaced at the next question.
    """

    settings: LookupSettings
    _questions: queue.SimpleQueue[Callable[[], None]] = field(default_factory=queue.SimpleQueue)
    _answered: threading.Condition = field(default_factory=threading.Condition)
    _askers: list[_Asker] = field(default_factory=list)
    _profiles: Profiles | None = None
    _silent_since_s: float | None = None
    _num_open: int = 0

    def ask(self, question: Question) -> Answer:
        """Begin to look up a prompt."""
        answer = Answer(time.monotonic())
        self._see_to_askers(answer.asked_s)
        with self._answered:
            self._num_open += 1
        self._questions.put(partial(self._look_up, question, answer))
        return answer

    def is_late(self, answer: Answer) -> bool:
        """Whether its request should not wait for an answer any longer."""
        now_s, since_s = time.monotonic(), self._silent_since_s
        is_silent = since_s is not None and now_s - since_s < _IMPATIENT_FOR_S
        patience_s = self.settings.lookup_s
        if now_s - answer.asked_s < (min(patience_s, _IMPATIENT_S) if is_silent else patience_s):
            return False
        # Not where the question mostly waited for others before it.
        if not is_silent and now_s - answer.began_s >= patience_s / 2:
            self._silent_since_s = now_s
        return True

    def wait(self, seconds: float) -> None:
        """Wait for the next answer, if there is a question."""
        with self._answered:
            if self._num_open:
                self._answered.wait(seconds)

    def close(self) -> None:
        """End the threads; what is under way is given up."""
        for asker in self._askers:
            asker.give_up()
            self._questions.put(lambda: None)
        self._askers.clear()

    def _see_to_askers(self, now_s: float) -> None:
        for asker in [a for a in self._askers if now_s - a.began_s > _GIVEN_UP_S]:
            self._askers.remove(asker)
            asker.give_up()
        while len(self._askers) < _THREADS:
            asker = _Asker()
            start_thread(partial(asker.work, self._questions), name="cachegen-vllm-lookup")
            self._askers.append(asker)

    def _look_up(self, question: Question, answer: Answer) -> None:
        answer.began_s = time.monotonic()
        try:
            answer.tokens = tokens_to_bytes(question.tokens)
            known = tokens_from_bytes(answer.tokens)
            key = question.keys[0]
            answer.ids = Ids(known, replace(key, exact=True))
            answer.inexact_ids = Ids(known, replace(key, exact=False))
            found = self._shortest(question, answer)
            self._silent_since_s = None
            self._take(answer, found, prompt_tokens=len(known))
        except CacheGenError as error:
            self._silent_since_s = time.monotonic()
            answer.failure = type(error).__name__
        except Exception as error:  # one request's lookup; the engine goes on without it
            answer.failure = type(error).__name__
        finally:
            answer.is_there = True
            with self._answered:
                self._num_open -= 1
                self._answered.notify_all()

    def _shortest(self, question: Question, answer: Answer) -> Found:
        """The stored prefix that all ranks have."""
        settings = self.settings
        known = tokens_from_bytes(answer.tokens)
        usable = known[: len(known) - len(known) % LINK_TOKENS]
        if not len(usable):
            return Found((), (), 0, True, ())
        shortest: Found | None = None
        for key in question.keys:
            profiles = self._profiles or Profiles(settings.store, settings.profile)
            # What is stored ends with a chunk, which a prompt seldom does.
            stored = look_up(
                usable, key, store=settings.store, profiles=profiles, expects_whole=False
            )
            found = found_in(stored, profiles, settings.level)
            self._profiles = None if found.errors else profiles
            if shortest is None or found.num_tokens < shortest.num_tokens:
                shortest = found
        assert shortest is not None
        return shortest

    def _take(self, answer: Answer, found: Found, *, prompt_tokens: int) -> None:
        answer.saved_stop = max(
            (e.stop for e in found.entries if e.stop <= found.num_tokens), default=0
        )
        answer.saved_exact = found.exact
        prospect = Prospect(
            [self._allowed(chunk) for chunk in found.chunks],
            prompt_tokens=prompt_tokens,
            block_tokens=self.settings.block_tokens,
            default_rank=found.default_rank,
        )
        answer.prospect = prospect if prospect.stop else None

    def _allowed(self, chunk: ChunkState) -> ChunkState:
        """A chunk without the levels that must not be loaded."""
        if self.settings.level not in EXACT_LEVELS:
            return chunk
        kept = (option for option in chunk.options if option.level in EXACT_LEVELS)
        return replace(chunk, options=tuple(kept))
