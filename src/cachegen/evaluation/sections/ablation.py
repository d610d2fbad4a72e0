"""What each part is worth: bits a value at the default level's KL, from the paper's parts to ours.

Each step is a coder of its own with real bytes, measured as all others are. It is coded at points
on both sides of that KL, and what it needs there lies between them (`curves.bits_at`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from cachegen.codec.levels import UNCALIBRATED_DEFAULT, UNCALIBRATED_LADDER
from cachegen.evaluation.case import Case
from cachegen.evaluation.coder import Coder
from cachegen.evaluation.curves import bits_at
from cachegen.evaluation.methods import presets, undelta, uniform
from cachegen.evaluation.methods.registry import OURS, PAPER_STEPS, MethodContext
from cachegen.evaluation.results import Failure, Step
from cachegen.evaluation.run import Run, key_of

Point = tuple[float, float]
"""Bits per value, and KL."""

# Where a search begins; from anywhere it ends at the same bits, but for interpolation.
_UNIFORM, _PAPER, _PLAIN = "4", 0.028, 0.35


@dataclass(frozen=True, slots=True)
class Part:
    """One step of the path.

    Attributes:
        step: for people.
        coders: of its curve, from coarse to fine.
        start: index of the one to begin with.
    """

    step: str
    coders: Sequence[Coder]
    start: int = 0


def parts_of(context: MethodContext, coders: Sequence[Coder]) -> Iterator[Part]:
    """The path up to what needs no profile; without texts what learns from none.

    Args:
        context: what coders are made from.
        coders: of the run; of those in the style of KVTC no others are made.
    """
    grids = uniform.uniform_coders(context.geometry)
    yield Part("a grid for each vector", grids, [one.level for one in grids].index(_UNIFORM))
    if context.texts:
        start = PAPER_STEPS.index(_PAPER)
        learned = [_without_deltas(context, step) for step in PAPER_STEPS]
        yield Part("bins by layer, entropy coded", learned, start)
        learned = [_paper(context, step) for step in PAPER_STEPS]
        yield Part("deltas from anchors: paper", learned, start)
        learned = [_plain(context, step) for step in presets.PLAIN_STEPS]
        start = presets.PLAIN_STEPS.index(_PLAIN)
        yield Part("no deltas, no rotations: plain", learned, start)
    names = [level.name for level in UNCALIBRATED_LADDER]
    own = [presets.adaptive_coder(context.rope, name) for name in names]
    yield Part("predicted channels: adaptive", own, names.index(UNCALIBRATED_DEFAULT))
    if known := [coder for coder in coders if coder.method == "kvtc"]:
        yield Part("one PCA: style of KVTC", known)


def ablation(
    run: Run, parts: Sequence[Part], cases: Sequence[Case], *, default: tuple[str, str]
) -> list[Step]:
    """Every step at the default level's KL, that level last; one that does not get there is noted.

    Args:
        run: measures, and keeps what it measured.
        parts: the steps before the default level.
        cases: that all steps are measured on.
        default: method and level.
    """
    coder = next((one for one in run.coders if (one.method, one.level) == default), None)
    own = None if coder is None else _measured(run, coder, cases)
    if own is None:
        return []
    bits, kl = own
    found = []
    for part in parts:
        points = _points(run, part, cases, kl)
        needed = bits_at(points, kl)
        if needed is None:
            known = ", ".join(f"{one:.5f}" for _, one in points) or "none"
            reason = f"expected points on both sides of a KL of {kl:.5f}, got {known}"
            run.failures.append(Failure("ablation", part.step, reason))
        else:
            found.append(Step(part.step, needed, kl))
    if default[0] == OURS:
        found.append(Step(f"the model's profile: {default[1]}", bits, kl))
    return found


def _points(run: Run, part: Part, cases: Sequence[Case], kl: float) -> list[Point]:
    """A step's curve: what is known first, then point after point towards this KL and past it."""
    points = dict[int, Point]()
    for index, coder in enumerate(part.coders):
        if all(key_of(coder, case) in run.outcomes.found for case in cases):
            known = _measured(run, coder, cases)
            points |= {index: known} if known else {}
    place = part.start
    for _ in part.coders:
        if bits_at(points.values(), kl) is not None or not 0 <= place < len(part.coders):
            break
        if place not in points:
            found = _measured(run, part.coders[place], cases)
            if found is None:
                break
            points[place] = found
        place += 1 if points[place][1] > kl else -1
    return list(points.values())


def _measured(run: Run, coder: Coder, cases: Sequence[Case]) -> Point | None:
    """Bits and mean KL over these cases; None where the coder fails."""
    found = [run.outcome(coder, case) for case in cases]
    whole = [one for one in found if one is not None]
    if len(whole) < len(found):
        return None
    bits = 8 * sum(one.num_bytes for one in whole) / sum(one.num_values for one in whole)
    return bits, sum(one.kl for one in whole) / len(whole)


def _without_deltas(context: MethodContext, step: float) -> Coder:
    def make() -> Coder:
        return undelta.coder(context.learned(), step=step)

    return _later(undelta.METHOD, f"{step:g}", make)


def _paper(context: MethodContext, step: float) -> Coder:
    def make() -> Coder:
        return next(presets.paper_coders(context.learned(), steps=[step]))

    return _later("paper", presets.step_name(step), make)


def _plain(context: MethodContext, step: float) -> Coder:
    def make() -> Coder:
        return next(presets.plain_coders(context.learned(), context.rope, steps=[step]))

    return _later("plain", presets.step_name(step), make)


def _later(method: str, level: str, make: Callable[[], Coder]) -> Coder:
    """A coder that is made when it is first used."""
    made = cache(make)
    return Coder(
        method,
        level,
        lambda kv, tokens: made().encode(kv, tokens),
        lambda data, tokens: made().decode(data, tokens),
    )
