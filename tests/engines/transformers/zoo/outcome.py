"""What becomes of an architecture: exact, close, refused, not built or wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from transformers import PreTrainedModel

from cachegen.engines.transformers import load_context
from cachegen.errors import UnsupportedCache
from cachegen.store import Store
from tests.engines.transformers.zoo.building import NotBuilt, build, first_sentence
from tests.engines.transformers.zoo.checks import (
    CHECKS,
    ROUNDING,
    STORED,
    Saved,
    memory,
    run,
    saved,
    text,
)
from tests.engines.transformers.zoo.describing import layers, planes, rotation

EXACT, CLOSE, REFUSED, NOT_BUILT, WRONG = "exact", "close", "refused", "not built", "wrong"
# From the best to the worst; what becomes worse than expected is a regression.
RANKS = (EXACT, CLOSE, REFUSED, NOT_BUILT, WRONG)


@dataclass(frozen=True, slots=True)
class Outcome:
    """An architecture's outcome.

    Attributes:
        name: as in `ARCHITECTURES`.
        outcome: one of `RANKS`.
        note: why it is not exact; empty where it is.
        layers: what its cache is made of.
        planes: heads and dimensions of its keys and values.
        rotation: how its keys or values turn with the position.
        differences: by check, relative to the largest logit.
    """

    name: str
    outcome: str
    note: str = ""
    layers: str = ""
    planes: str = ""
    rotation: str = ""
    differences: dict[str, float] = field(default_factory=dict)


def examine(name: str) -> Outcome:
    """Build the architecture and put it through every check."""
    try:
        model = build(name)
    except NotBuilt as error:
        return Outcome(name, NOT_BUILT, str(error))
    store = memory()
    with _lengths(model) as lengths:
        try:
            case = saved(name, model, store)
        except (UnsupportedCache, ValueError) as error:
            return _refused(name, model, store, error, longest=max(lengths, default=0))
        except Exception as error:
            return _failed(name, model, error)
    return _checked(case)


def _refused(
    name: str, model: PreTrainedModel, store: Store, error: Exception, *, longest: int
) -> Outcome:
    problems = []
    if longest >= STORED:
        problems.append("refused only after the prefill")
    if list(store.list()):
        problems.append("refused with something stored")
    try:
        if load_context(model, text(), store=store).num_tokens:
            problems.append("loading is not refused")
    except (UnsupportedCache, ValueError):
        pass
    except Exception as late:
        problems.append(f"loading fails: {_described(late)}")
    note = "; ".join([*problems, first_sentence(error)])
    return Outcome(name, WRONG if problems else REFUSED, note, layers(model))


def _failed(name: str, model: PreTrainedModel, error: Exception) -> Outcome:
    """No refusal: our fault, unless the model cannot even run alone."""
    try:
        run(model, None, text())
    except Exception as own:
        return Outcome(name, NOT_BUILT, f"does not run with a cache: {_described(own)}")
    return Outcome(name, WRONG, f"saving fails: {_described(error)}", layers(model))


def _checked(case: Saved) -> Outcome:
    differences, problems = {}, []
    for name, check in CHECKS.items():
        try:
            differences[name] = check(case)
        except Exception as error:
            problems.append(f"{name}: {_described(error)}")
            continue
        if differences[name] > ROUNDING:
            problems.append(f"{name}: differs by {differences[name]:.1g}")
    outcome = WRONG if problems else CLOSE if differences["lossless"] else EXACT
    if outcome == CLOSE:
        problems.append(f"lossless: differs by {differences['lossless']:.0e}, rounding")
    return Outcome(
        case.name,
        outcome,
        "; ".join(problems + case.remarks),
        layers(case.model),
        planes(case.model),
        rotation(case.model),
        differences,
    )


def _described(error: Exception) -> str:
    said = first_sentence(error)
    return said if isinstance(error, AssertionError) else f"{type(error).__name__}: {said}"


@contextmanager
def _lengths(model: PreTrainedModel) -> Iterator[list[int]]:
    """The number of tokens of each forward pass."""
    found: list[int] = []

    def note(_: object, args: tuple, kwargs: dict) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is not None:
            found.append(ids.shape[-1])

    hook = model.register_forward_pre_hook(note, with_kwargs=True)
    yield found
    hook.remove()
