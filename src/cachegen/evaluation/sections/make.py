"""Sections of a result beside its rows: one that fails costs its own numbers only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TypeVar

from cachegen.evaluation.case import Case
from cachegen.evaluation.coder import Tokens
from cachegen.evaluation.compared import ordinary
from cachegen.evaluation.job import Job
from cachegen.evaluation.methods.prompts import id_bytes
from cachegen.evaluation.methods.registry import MethodContext
from cachegen.evaluation.results import Cost, Failure, Moment, Row, Slo, Step, Ttft
from cachegen.evaluation.run import Run
from cachegen.evaluation.sections.ablation import ablation, parts_of
from cachegen.evaluation.sections.cost import Stored, costs_of, sizes_of
from cachegen.evaluation.times import deadlines, loads
from cachegen.evaluation.times.costs import measured
from cachegen.kvcache import KVCache

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Sections:
    """What sections are made of, and what makes them.

    Attributes:
        job: what is evaluated.
        run: that measured the rows, and measures more.
        context: what coders are made from.
        cases: by dataset.
        rows: of every method.
        default: method and level of the default level.
        tokens: the longest ordinary context.
        kv: its cache.
        timed: of it, by name as in `times.speed`.
    """

    job: Job
    run: Run
    context: MethodContext
    cases: Mapping[str, Sequence[Case]]
    rows: Sequence[Row]
    default: tuple[str, str]
    tokens: Tokens
    kv: KVCache
    timed: Mapping[str, float]

    def loads(self) -> tuple[Sequence[Ttft], Sequence[Moment]]:
        """Times over real links."""
        job = self.job
        wanted = loads.QUICK if job.effort.is_quick else loads.FULL

        nothing: tuple[Sequence[Ttft], Sequence[Moment]] = ((), ())

        def made() -> tuple[Sequence[Ttft], Sequence[Moment]]:
            text = self._text(max(wanted.lengths))
            return loads.timed_loads(job.models, job.profile, text, wanted, self.run.tell)

        return self._made("times of loads", made, nothing)

    def deadlines(self) -> Sequence[Slo]:
        """Deadlines met over simulated links."""
        job = self.job
        runs = job.effort.timed_runs

        def made() -> Sequence[Slo]:
            found = deadlines.deadlines_met(
                measured(job.models, job.profile, self.kv, self.tokens, runs=runs),
                deadlines.QUICK if job.effort.is_quick else deadlines.FULL,
                default=self.default[1],
                kl=deadlines.kl_of_levels(self.rows, job.profile),
                seed=job.seed,
            )
            return list(found)

        return self._made("deadlines", made, ())

    def ablation(self) -> Sequence[Step]:
        """The codec part by part, on ordinary cases."""

        def made() -> Sequence[Step]:
            parts = list(parts_of(self.context, self.run.coders))
            few = ordinary(self.cases)[: self.job.effort.ablated_cases]
            return ablation(self.run, parts, few, default=self.default)

        return self._made("ablation", made, ())

    def cost(self) -> Sequence[Cost]:
        """Of storing and computing."""

        def made() -> Sequence[Cost]:
            sizes = sizes_of(self.rows, self.default, num_values=self.kv.num_values)
            if not sizes:
                return ()
            stored = Stored(
                num_tokens=len(self.tokens),
                size_bytes=sizes,
                text_bytes=len(self.tokens) * id_bytes(self.job.models.writer),
                prefill_s=self.timed["prefill_s"],
                decode_s=self.timed["decode_s"],
                encode_s=self.timed["encode_s"],
            )
            return list(costs_of(stored, self.job.prices))

        return self._made("cost", made, ())

    def _text(self, num_tokens: int) -> Tokens:
        """So many tokens, or as many as the model reads, of contexts one after another."""
        config = self.job.models.writer.config.get_text_config(decoder=True)
        most = min(num_tokens, getattr(config, "max_position_embeddings", None) or num_tokens)
        kinds = (ordinary(self.cases), *self.cases.values())
        contexts = (case.context for own in kinds for case in own)
        distinct = dict.fromkeys((self.tokens, *contexts))
        return tuple(islice(chain.from_iterable(distinct), most))

    def _made(self, name: str, make: Callable[[], Found], otherwise: Found) -> Found:
        self.run.tell(name)
        try:
            return make()
        except Exception as exc:  # whatever a section does, the others go on
            self.run.failures.append(Failure(name, "", f"{type(exc).__name__}: {exc}"))
            self.run.tell(f"{name} FAILED: {exc}")
            return otherwise
