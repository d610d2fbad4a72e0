"""The scheduler's side: how much of a prompt is loaded, which chunks are saved, and when."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

from cachegen.bitstream.identity import LINK_TOKENS, TOKEN_BYTES
from cachegen.engines.vllm.config import ConnectorConfig
from cachegen.engines.vllm.costs import LEAST_TOKENS, Learned, Prefill
from cachegen.engines.vllm.identity.request import RequestIdentity
from cachegen.engines.vllm.jobs import BlockIds, LoadJob, Report, SaveJob, Step
from cachegen.engines.vllm.metrics.counters import Counters
from cachegen.engines.vllm.scheduler.admission import Admission
from cachegen.engines.vllm.scheduler.grouping import Grouping
from cachegen.engines.vllm.scheduler.lookups import Answer, Lookups, Question
from cachegen.engines.vllm.scheduler.plan import Prospect
from cachegen.engines.vllm.scheduler.requests import Exactness, Names, Tracked

# An idle engine asks again at once, thousands of times a second; it waits this long for something
# to change. Arbitrary: 0.5 to 5 ms do.
_IDLE_S = 0.002
# Loggers outside of vLLM's tree are silent in its processes.
_LOG = logging.getLogger("vllm.cachegen")


class Scheduling:
    """Everything that the connector decides in the scheduler's process."""

    def __init__(
        self,
        config: ConnectorConfig,
        lookups: Lookups,
        *,
        grouping: Grouping,
        caches_prefixes: bool,
        counters: Counters,
    ) -> None:
        """Start without requests.

        Args:
            config: of the connector.
            lookups: of prompts.
            grouping: of vLLM's blocks.
            caches_prefixes: whether vLLM shares blocks of equal beginnings.
            counters: to count in.
        """
        self._config, self._lookups = config, lookups
        self._grouping, self._caches_prefixes = grouping, caches_prefixes
        self._counters = counters
        self._requests: dict[str, Tracked] = {}
        self._admission = Admission(config.max_loads)
        self._exactness, self._given = Exactness(), Names()
        self._learned = Learned()
        self._loads: list[LoadJob] = []
        self._dropped: list[str] = []

    def arrived(
        self,
        request_id: str,
        question: Question | None,
        *,
        prompt_tokens: int,
        may_load: bool,
        identity: RequestIdentity | None,
    ) -> None:
        """Begin to look up a new request; None where nothing of it may be saved or loaded."""
        answer = None
        if question is not None and prompt_tokens >= self._config.chunk_tokens:
            answer = self._lookups.ask(question)
        self._requests[request_id] = Tracked(
            answer, prompt_tokens, may_load and self._config.is_loading, identity, time.monotonic()
        )

    def ask(self, request_id: str, local: int) -> int | None:
        """How many tokens behind the ``local`` ones will be loaded; None to ask again later."""
        request = self._requests.get(request_id)
        if request is None:
            return 0
        request.is_exact, request.marked, request.local = None, 0, local
        request.is_trial = False
        answer = request.answer
        if answer is None:
            return 0
        if not answer.is_there:
            if not self._lookups.is_late(answer):
                return None
            return self._miss(request, "late")
        if not request.may_load:
            return self._miss(request, "not wanted")
        return self._ask(request_id, request, answer)

    def _ask(self, request_id: str, request: Tracked, answer: Answer) -> int | None:
        local, prospect, now_s = request.local, answer.prospect, time.monotonic()
        if prospect is None or prospect.stop <= local:
            reason = answer.failure or ("absent" if prospect is None else "local")
            return self._miss(request, reason)
        name = self._name(answer, prospect.chunk_stop(local))
        if self._admission.has_failed(name, now_s=now_s):
            return self._miss(request, "failed lately")
        if self._admission.is_held(now_s=now_s):
            return self._miss(request, "link slow")
        if self._caches_prefixes and self._admission.is_loading(name, beside=request_id):
            return None
        plan = prospect.plan(local, self._learned, self._config.slo_s)
        if plan.stop <= local:
            if not self._admission.may_try(now_s=now_s):
                return self._miss(request, "sooner computed")
            plan, request.is_trial = prospect.trial(local, self._learned), True
        if not plan.pays(self._admission.backlog_s(now_s)):
            return self._miss(request, "link busy")
        if self._admission.is_full:
            return None
        request.outcome = "hit"
        return plan.stop - local

    def _miss(self, request: Tracked, reason: str) -> int:
        if not request.outcome:
            request.outcome = reason
            self._counters.add("misses", label=reason)
        return 0

    def allocated(self, request_id: str, blocks: BlockIds, num_external: int) -> None:
        """Blocks were allocated; with tokens to load, or after they were loaded."""
        if not num_external:
            self._admission.used(request_id)
            return
        try:
            self._loads.append(self._load(request_id, blocks, num_external))
        except Exception:  # the request waits for a load: one of nothing fails, and is told
            _LOG.exception("planning a load failed; vLLM computes the prompt")
            nothing = LoadJob(request_id, b"", 0, num_external, blocks, RequestIdentity())
            self._loads.append(nothing)

    def _load(self, request_id: str, blocks: BlockIds, num_external: int) -> LoadJob:
        request = self._requests[request_id]
        answer, now_s = request.answer, time.monotonic()
        assert answer is not None and answer.prospect is not None and request.identity is not None
        start, stop = request.local, request.local + num_external
        name = self._name(answer, answer.prospect.chunk_stop(start))
        load_s = self._load_s(request, answer.prospect)
        self._admission.begin(
            request_id, name, now_s=now_s, load_s=load_s, is_trial=request.is_trial
        )
        grouping, is_exact = self._grouping, self._config.is_lossless
        written = slice(start // grouping.block_tokens, grouping.ends_at(stop))
        self._exactness.note(blocks[grouping.group][written], is_exact=is_exact)
        slo_s = self._config.slo_s
        self._counters.add("hits")
        self._counters.add("tokens_hit", num_external)
        if request.is_trial:
            self._counters.add("trials")
        return LoadJob(
            request_id,
            answer.tokens[: TOKEN_BYTES * answer.prospect.chunk_stop(stop - 1)],
            start,
            stop,
            blocks,
            request.identity,
            None if slo_s is None else max(slo_s - (now_s - request.arrived_s), 0.0),
            request.is_trial,
        )

    def _load_s(self, request: Tracked, prospect: Prospect) -> float:
        """Seconds that a load takes, as far as known."""
        if request.is_trial:
            return prospect.trial(request.local, self._learned).load_s
        return prospect.plan(request.local, self._learned, self._config.slo_s).load_s

    def step(self, scheduler_output: Any) -> Step:
        """What is to be done in this step."""
        step = Step(loads=self._loads, dropped=self._dropped)
        self._loads, self._dropped = [], []
        scheduled = scheduler_output.num_scheduled_tokens
        block_state = scheduler_output.kv_connector_block_state
        for request_id, done in computed_before(scheduler_output):
            request = self._requests.get(request_id)
            if request is None:
                continue
            try:
                self._computes(step, request_id, request, done, scheduled[request_id], block_state)
            except Exception:  # the step's loads must not be lost with one request's save
                _LOG.exception("planning a save failed; it is left out")
        step.prefill = only_prefill(scheduler_output)
        step.is_idle = not scheduler_output.total_num_scheduled_tokens
        if step.is_idle and not step.loads:
            self._lookups.wait(_IDLE_S)
        return step

    def _computes(
        self,
        step: Step,
        request_id: str,
        request: Tracked,
        done: int,
        count: int,
        block_state: Any,
    ) -> None:
        size, stop = self._grouping.block_tokens, done + count
        num_blocks = self._grouping.ends_at(stop)
        computed = min(stop, request.prompt_tokens)
        chunks_stop = computed - computed % self._config.chunk_tokens
        is_new = request.is_exact is None or num_blocks > request.marked
        may_save = self._config.is_saving and request.answer is not None
        wants_save = may_save and chunks_stop > (request.saved or 0)
        if not (is_new or wants_save):
            return
        blocks = block_state.get_block_ids(request_id)
        main = blocks[self._grouping.group]
        if request.is_exact is None:
            request.is_exact = self._exactness.are_exact(main[: done // size])
        if is_new:
            first = max(done // size, request.marked)
            self._exactness.note(main[first:num_blocks], is_exact=request.is_exact)
            request.marked = num_blocks
        if wants_save and done < request.prompt_tokens:
            self._save(step, request_id, request, chunks_stop, blocks)

    def _save(self, step: Step, request_id: str, request: Tracked, stop: int, blocks: Any) -> None:
        answer = request.answer
        assert answer is not None and request.identity is not None
        assert request.is_exact is not None
        ids = answer.ids if request.is_exact else answer.inexact_ids
        if not self._may_save(request, answer) or ids is None:
            request.saved = request.prompt_tokens
            return
        if request.saved is None:
            request.saved = answer.saved_stop if self._continues(request, answer) else 0
        chunk = self._config.chunk_tokens
        start = request.saved or 0
        ends = list(range(start - start % chunk + chunk, stop + 1, chunk))
        while ends and self._given.has(ids.of(ends[0]), asked_s=answer.asked_s):
            start = ends.pop(0)
        request.saved = max(start, request.saved or 0)
        if not ends:
            return
        names = tuple(ids.of(end) for end in ends)
        self._given.add(names)
        request.saved = stop
        step.saves.append(
            SaveJob(
                request_id,
                answer.tokens[: TOKEN_BYTES * stop],
                start,
                stop,
                tuple(tuple(group) for group in blocks),
                request.identity,
                request.is_exact,
                names,
            )
        )

    def _may_save(self, request: Tracked, answer: Answer) -> bool:
        if not answer.is_there or answer.saved_stop is None:
            self._counters.add("saves_shed", label="lookup")
            return False
        if not request.is_exact and not self._config.accepts_inexact:
            self._counters.add("saves_shed", label="inexact")
            return False
        return True

    def _continues(self, request: Tracked, answer: Answer) -> bool:
        """Whether what is stored can be continued by what the request computes."""
        return answer.saved_exact or not request.is_exact

    def finished(self, request_id: str) -> None:
        """A request has ended, whether it was loading or not."""
        request = self._requests.pop(request_id, None)
        if request is not None and request.outcome == "hit":
            self._dropped.append(request_id)
        self._admission.used(request_id)

    def ended(self, loaded: Iterable[str], report: Report | None) -> None:
        """Take what workers tell after a step."""
        now_s = time.monotonic()
        if report is not None:
            for request_id in report.failed:
                self._admission.failed(request_id, now_s=now_s)
            for request_id in report.short:
                if request_id in self._requests:
                    self._requests[request_id].may_load = False
                    if request_id not in report.failed:
                        self._admission.gave_up(request_id, now_s=now_s)
            self._given.remove(report.unsaved)
            self._given.saved(report.saved, now_s=now_s)
            self._learned = report.learned or self._learned
        short = () if report is None else report.short
        for request_id in loaded:
            if request_id not in short:
                self._admission.went_well(request_id)
            self._admission.loaded(request_id)

    def learn(self, learned: Learned) -> None:
        """Take what a worker knew at its start."""
        self._learned = learned

    def reset(self) -> None:
        """Forget what was saved: the store may have been emptied."""
        self._given.clear()

    def close(self) -> None:
        """End lookups."""
        self._lookups.close()

    @staticmethod
    def _name(answer: Answer, stop: int) -> bytes:
        assert answer.ids is not None
        return answer.ids.of(stop - stop % LINK_TOKENS)


def computed_before(scheduler_output: Any) -> Iterable[tuple[str, int]]:
    """(request, tokens that are computed) of all that are scheduled."""
    for new in scheduler_output.scheduled_new_reqs:
        yield new.req_id, new.num_computed_tokens
    known = scheduler_output.scheduled_cached_reqs
    yield from zip(known.req_ids, known.num_computed_tokens, strict=True)


def only_prefill(scheduler_output: Any) -> Prefill | None:
    """The step's prefill, if it computes tokens of one request and enough of them."""
    scheduled = scheduler_output.num_scheduled_tokens
    if len(scheduled) != 1 or scheduler_output.total_num_scheduled_tokens < LEAST_TOKENS:
        return None
    ((_, done),) = computed_before(scheduler_output)
    return Prefill(scheduler_output.total_num_scheduled_tokens, done)
