"""Every coder on every case, case by case: what fails costs its own numbers and no others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from cachegen.evaluation.case import Case
from cachegen.evaluation.coder import Coder
from cachegen.evaluation.gate import check
from cachegen.evaluation.judge import Models, Outcome, Prepared, measure, prepare
from cachegen.evaluation.outcomes import Key, Outcomes
from cachegen.evaluation.results import Failure

Tell = Callable[[str], None]


@dataclass(slots=True)
class Run:
    """An evaluation under way.

    Attributes:
        models: that are asked.
        coders: that are compared.
        outcomes: keeps what was measured.
        tell: told about everything that is measured.
        failures: so far; a coder that failed once is not tried again in this run.
    """

    models: Models
    coders: Sequence[Coder]
    outcomes: Outcomes
    tell: Tell
    failures: list[Failure] = field(default_factory=list)
    _checked: set[tuple[str, str]] = field(default_factory=set)
    _prepared: dict[tuple[str, str], Prepared] = field(default_factory=dict)

    def over(self, cases: Sequence[Case]) -> Iterator[int]:
        """Measure what is not known yet; gives the number of cases that are done."""
        for done, case in enumerate(cases, start=1):
            left = [coder for coder in self.coders if self._is_left(coder, case)]
            if left:
                self.tell(f"{case.dataset} {case.name}: {len(case.context)} tokens")
                prepared = prepare(self.models, case)
                for coder in left:
                    self._measure(coder, prepared)
            yield done

    def outcome(self, coder: Coder, case: Case) -> Outcome | None:
        """Of one more coder, measured where it is not known yet; None where it fails.

        The cache of the case is kept for the coders that come.
        """
        if self._is_left(coder, case):
            name = (case.dataset, case.name)
            if name not in self._prepared:
                self._prepared[name] = prepare(self.models, case)
            self._measure(coder, self._prepared[name])
        return self.outcomes.found.get(key_of(coder, case))

    def _is_left(self, coder: Coder, case: Case) -> bool:
        key = key_of(coder, case)
        failed = any((key.method, key.level) == (one.method, one.level) for one in self.failures)
        return not failed and key not in self.outcomes.found

    def _measure(self, coder: Coder, prepared: Prepared) -> None:
        key = key_of(coder, prepared.case)
        try:
            if (coder.method, coder.level) not in self._checked:
                check(coder, prepared.kv, prepared.case.context)
                self._checked.add((coder.method, coder.level))
            outcome = measure(self.models, prepared, coder)
        except Exception as exc:  # whatever a method does, the others go on
            reason = f"{type(exc).__name__}: {exc}"
            self.failures.append(Failure(coder.method, coder.level, reason))
            self.tell(f"{coder.method} {coder.level} FAILED on {key.dataset} {key.case}: {reason}")
            return
        self.outcomes.add(key, outcome)
        bits = 8 * outcome.num_bytes / outcome.num_values
        score = "" if outcome.score is None else f", score {outcome.score:.3f}"
        self.tell(f"  {coder.method} {coder.level}: {bits:.3f} bits, KL {outcome.kl:.5f}{score}")


def key_of(coder: Coder, case: Case) -> Key:
    """What a coder's outcome on a case is kept as."""
    return Key(coder.method, coder.level, case.dataset, case.name)
