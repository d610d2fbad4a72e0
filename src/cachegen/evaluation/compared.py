"""What an evaluation compares: cases of datasets, coders of methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from cachegen.engines.transformers.rope import rope_map
from cachegen.evaluation import datasets
from cachegen.evaluation.case import Case
from cachegen.evaluation.coder import Coder
from cachegen.evaluation.job import Job
from cachegen.evaluation.learned import texts_to_learn_from
from cachegen.evaluation.methods.registry import METHODS, OURS, TEXTS, MethodContext, make
from cachegen.evaluation.results import Failure
from cachegen.evaluation.run import Tell


def cases_of(job: Job, failures: list[Failure], tell: Tell) -> dict[str, list[Case]]:
    """By dataset; one that cannot be made is noted, and the others go on.

    Raises:
        ValueError: none can, or a name is unknown.
    """
    effort, found = job.effort, dict[str, list[Case]]()
    datasets.missing_files(effort.datasets, job.data)  # refuses unknown names at once
    for name in effort.datasets:
        try:
            found |= datasets.load(
                [name],
                job.data,
                job.models.tokenizer,
                context_tokens=effort.context_tokens,
                count=effort.cases,
                seed=job.seed,
            )
        except ValueError as exc:
            failures.append(Failure(f"dataset {name}", "", str(exc)))
            tell(f"dataset {name} is left out: {exc}")
    if not found:
        raise ValueError(f"expected cases of one dataset at least, got none: {failures[0].reason}")
    return found


def ordinary(cases: Mapping[str, Sequence[Case]]) -> Sequence[Case]:
    """Those of a dataset of texts that go on, where there is one: they are quick, and what profiles
    are mostly learned from. Prompts that a profile does not know would be timed as such."""
    return min(cases.values(), key=lambda own: bool(own[0].question))


def method_context(job: Job, tell: Tell) -> MethodContext:
    """What methods are made from; without texts where there are none to learn from.

    Raises:
        ValueError: a name is unknown.
    """
    models, effort = job.models, job.effort
    context = MethodContext(
        model=models.prefill.model,
        geometry=models.prefill([0]).geometry,
        rope=rope_map(models.writer),
        profile=job.profile,
    )
    make(effort.methods, context)  # refuses unknown names at once
    learning = [name for name in effort.methods if TEXTS in METHODS[name].needs]
    if not learning:
        return context
    tell("texts to learn from")
    try:
        texts = texts_to_learn_from(
            models.tokenizer,
            job.data,
            num_tokens=effort.context_tokens,
            count=effort.learned_contexts,
        )
    except (OSError, ValueError) as exc:
        tell(f"nothing to learn from, so no {', '.join(learning)}: {exc}")
        return context
    return replace(context, texts=texts)


def coders_of(
    job: Job, context: MethodContext, failures: list[Failure], tell: Tell
) -> Iterator[Coder]:
    """Of every method; one that cannot be made is noted, and the others go on."""
    for name in job.effort.methods:
        if name == OURS and job.profile is None:
            tell(f"{OURS} is left out: the model has no profile; `cachegen calibrate` makes one")
            continue
        tell(f"method {name}")
        try:
            yield from list(make([name], context, quick=job.effort.is_quick))
        except Exception as exc:  # whatever a method does, the others go on
            failures.append(Failure(name, "", str(exc)))
            tell(f"{name} FAILED: {exc}")
