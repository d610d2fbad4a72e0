"""A prediction of the time of a calibration, phase by phase, and of its memory.

Every phase is a sum of products whose sizes are known, over speeds that were measured just before.
Where nothing else is said the constants below were fitted to whole runs on two cores (docs/LOG.md,
2026-11-29, has predictions beside times).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cachegen.cli.memory import gigabytes
from cachegen.cli.pace import duration
from cachegen.codec.calibration.kept import MOST_BYTES
from cachegen.codec.calibration.sizing import TransformSizes

# Steps that are tried until all levels are placed: one or two for each of five levels.
TRIALS = 7
# The default level as it is placed; half of the time it is placed finer.
_LONG_TRIALS = 1.5
NUM_LEVELS = 5
# Work besides products (rounding, rotations, symbols, synthesis), as FLOP of float32 products that
# take as long, for each value of a cache.
_CODING_FLOP, _KEEPING_FLOP, _ENTROPY_FLOP = 1500, 2000, 1000
_PLAIN_FLOP = 4000
# Time of a pass with gradients of the cached values, in times of a forward pass, and that of each
# further turn of labels.
_WITH_GRADIENTS, _FURTHER_TURN = 4.5, 2.0
# Comparing predictions, in FLOP for each logit.
_COMPARING_FLOP = 1200
# Coefficients computed of every token (as in `codec.transform.analysis`), and the share of the
# others that trials need on average.
_LEADING, _SHARE_BEYOND = 512, 0.25
# Columns that measure what lies beyond the coefficients.
_LOOKED_AT = 64
# As the defaults of `engines.transformers.quality`.
_NOISE_WINDOWS = 2
_BATCH_WINDOWS = 8
# As in `engines.transformers.learning`: tokens that tell how loud columns are.
_HEARD_TOKENS = 1024
# Writing checkpoints takes at most a twentieth of the time.
_KEEPING_CHECKPOINTS = 1.05


@dataclass(frozen=True, slots=True)
class Speeds:
    """Measured speeds of this machine, and of this model on it: units of work in a second.

    Attributes:
        own: FLOP of the passes that prefill contexts.
        twin: FLOP of the passes of the model in float32.
        short: FLOP of the same model's passes over many texts of a token or two.
        float32: FLOP of products.
        float64: the same in double precision.
        eigenvectors: columns**3 of symmetric eigendecompositions in float64.
        copied: bytes of float64 sums that are added to.
    """

    own: float
    twin: float
    short: float
    float32: float
    float64: float
    eigenvectors: float
    copied: float


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a model that its passes' cost follows from.

    Attributes:
        body: parameters that every token passes through.
        head: parameters that every predicted token passes through besides.
        attention: FLOP for each pair of a token and one before it.
        vocabulary: rows of the input embedding.
        values: cached values of each token.
        value_bytes: size of a value in the model's own dtype.
        feature_columns: features of a single token, before they are projected.
    """

    body: int
    head: int
    attention: int
    vocabulary: int
    values: int
    value_bytes: int
    feature_columns: int

    def flop(self, tokens: int, *, past: int = 0, predicted: int = 1) -> float:
        """FLOP of a pass over tokens behind a past."""
        reach = past + tokens / 2
        return 2.0 * (tokens * self.body + predicted * self.head) + self.attention * tokens * reach


@dataclass(frozen=True, slots=True)
class Piece:
    """A context to measure on, and the number of tokens that are read behind it."""

    context: int
    read: int


@dataclass(frozen=True, slots=True)
class Work:
    """The amount of work of a calibration.

    Attributes:
        preset: `transform`, `plain` or `paper`.
        context_tokens: tokens of a sample.
        read_tokens: tokens read behind every sample, for its gradient.
        num_samples: contexts to learn from.
        draws: turns of labels that gradients are taken for.
        windows: contexts to measure on, by domain.
        tasks: contexts with their questions.
        coded: windows that are coded at the end to see their sizes.
        features: features of a single token, after they are projected.
        asked_tokens: tokens that the model is run on one by one.
        plan: what `transform` learns; None for other presets.
        long: long contexts to measure the default level on.
    """

    preset: str
    context_tokens: int
    read_tokens: int
    num_samples: int
    draws: int
    windows: Sequence[Sequence[Piece]]
    tasks: Sequence[Piece]
    coded: Sequence[Piece]
    features: int
    asked_tokens: int
    plan: TransformSizes | None
    long: Sequence[Piece] = ()


@dataclass(frozen=True, slots=True)
class Costs:
    """A prediction of time and memory.

    Attributes:
        seconds: time of each phase, in their order.
        peak_bytes: the most bytes that are resident.
    """

    seconds: dict[str, float]
    peak_bytes: float

    @property
    def total_s(self) -> float:
        """Time of all phases."""
        return sum(self.seconds.values())

    def describe(self) -> str:
        """One line for people: the sum, the phases, and the memory."""
        phases = ", ".join(f"{name} {rough(took)}" for name, took in self.seconds.items())
        memory = gigabytes(self.peak_bytes)
        return f"about {rough(self.total_s)}: {phases}; peak memory about {memory}"


def rough(seconds: float) -> str:
    """A time with few digits: `40 s`, `7 min`, `2 h 10 min`."""
    if seconds < 10:
        return duration(max(seconds, 1))
    if seconds < 90:
        return duration(5 * round(seconds / 5))
    if seconds < 3600:
        return f"{round(seconds / 60)} min"
    return duration(600 * round(seconds / 600))


def costs_of(shape: Shape, work: Work, speeds: Speeds, *, resident_bytes: float) -> Costs:
    """Predict what a calibration costs.

    Args:
        shape: sizes of the model.
        work: amount of work.
        speeds: measured speeds.
        resident_bytes: memory of the process with its models, before the calibration.
    """
    found = {"reference runs": _reference_s(shape, work, speeds)}
    if work.plan is not None:
        found |= {
            "features": _features_s(shape, work, speeds),
            "moments": _moments_s(shape, work, work.plan, speeds),
            "solving": _solving_s(shape, work, work.plan, speeds),
        }
        learned = _rows(shape, work) * work.num_samples * NUM_LEVELS
        tables = _evaluation_s(shape, work, speeds)
        tables += learned * shape.values * _KEEPING_FLOP / speeds.float32
    else:
        own = shape.flop(work.context_tokens) / speeds.own
        values = work.context_tokens * shape.values
        counted = values * _PLAIN_FLOP / speeds.float32
        found["statistics"] = work.num_samples * (own + counted)
        passes = NUM_LEVELS if work.preset == "paper" else 1
        tables = work.num_samples * (passes * own + NUM_LEVELS * counted)
    found["levels"] = TRIALS * _evaluation_s(shape, work, speeds)
    if work.long:
        found["lengths"] = _long_s(shape, work, speeds)
    found["tables"] = tables
    found["sizes"] = NUM_LEVELS * sum(
        _coding_s(one.context, shape, work, speeds)
        + one.context * shape.values * _ENTROPY_FLOP / speeds.float32
        for one in work.coded
    )
    return Costs(found, resident_bytes + _held_bytes(shape, work))


def _rows(shape: Shape, work: Work) -> float:
    """Rows kept of every sample."""
    room = MOST_BYTES / (4 * max(shape.values, 1) * work.num_samples)
    return min(float(work.context_tokens), room)


def _reference_s(shape: Shape, work: Work, speeds: Speeds) -> float:
    """Seconds of noise floor and reference runs."""
    few = [one for own in work.windows for one in own[:_NOISE_WINDOWS]]
    own_flop = sum(2 * _read_flop(shape, one) for one in few)
    every = [one for own in work.windows for one in own]
    own_flop += sum(shape.flop(one.context) for one in every)
    twin_flop = sum(_read_flop(shape, one) for one in every)
    twin_flop += sum(shape.flop(one.context) + _read_flop(shape, one) for one in work.tasks)
    compared = sum(one.read for one in few) * shape.vocabulary * _COMPARING_FLOP
    return own_flop / speeds.own + twin_flop / speeds.twin + compared / speeds.float32


def _read_flop(shape: Shape, piece: Piece) -> float:
    """FLOP of reading on behind a context."""
    return shape.flop(piece.read, past=piece.context, predicted=piece.read)


def _features_s(shape: Shape, work: Work, speeds: Speeds) -> float:
    """Seconds of computing the features of single tokens."""
    passes = 2.0 * (work.asked_tokens + _HEARD_TOKENS) * shape.body
    mixing = 2.0 * work.asked_tokens * shape.feature_columns * work.features
    return passes / speeds.short + mixing / speeds.float32


def _moments_s(shape: Shape, work: Work, plan: TransformSizes, speeds: Speeds) -> float:
    own = shape.flop(work.context_tokens) / speeds.own
    read = shape.flop(work.read_tokens, past=work.context_tokens, predicted=work.read_tokens)
    products = plan.flops_per_token * work.context_tokens / speeds.float32
    added = plan.learning_bytes / speeds.copied
    passes = _WITH_GRADIENTS + (work.draws - 1) * _FURTHER_TURN
    each = own + passes * read / speeds.twin + products + added
    return _KEEPING_CHECKPOINTS * work.num_samples * each


def _solving_s(shape: Shape, work: Work, plan: TransformSizes, speeds: Speeds) -> float:
    """Seconds of eigenvectors, the products around them, and fitting what tokens weigh."""
    columns = shape.values
    known = len(plan.lag_ranks) * work.features
    widths = [columns * len(group) / sum(map(len, plan.groups)) for group in plan.groups]
    cubes = sum(2 * width**3 for width in widths)
    cubes += len(plan.lag_ranks) * 2 * work.features**3
    products = sum(
        10 * width**3 + 4 * width**2 * min(plan.most_coefficients, width) for width in widths
    )
    products += 2 * known * sum(width**2 for width in widths)
    products += known**3 / 3 + 2 * known**2 * columns
    products += len(plan.lag_ranks) * 4 * work.features**2 * columns
    looked_at = sum(plan.lag_ranks) + _LEADING + plan.most_coefficients
    weighing = 2.0 * _rows(shape, work) * work.num_samples * columns * looked_at
    return cubes / speeds.eigenvectors + products / speeds.float64 + weighing / speeds.float32


def _long_s(shape: Shape, work: Work, speeds: Speeds) -> float:
    """Seconds of reference runs and trials on long contexts."""
    total = 0.0
    for one in work.long:
        total += shape.flop(one.context) / speeds.own + _read_flop(shape, one) / speeds.twin
        total += _LONG_TRIALS * _window_s(one, shape, work, speeds)
    return total


def _window_s(one: Piece, shape: Shape, work: Work, speeds: Speeds) -> float:
    """Seconds of coding a context, continuing from it and comparing."""
    coding = _coding_s(one.context, shape, work, speeds)
    compared = one.read * shape.vocabulary * _COMPARING_FLOP / speeds.float32
    return coding + _read_flop(shape, one) / speeds.twin + compared


def _evaluation_s(shape: Shape, work: Work, speeds: Speeds) -> float:
    """Seconds of a trial: contexts coded, continued and compared, tasks answered."""
    total = sum(_window_s(one, shape, work, speeds) for own in work.windows for one in own)
    for one in work.tasks:
        total += _coding_s(one.context, shape, work, speeds)
        total += _read_flop(shape, one) / speeds.twin
    return total


def _coding_s(tokens: int, shape: Shape, work: Work, speeds: Speeds) -> float:
    """Seconds of coding a context: to coefficients and back."""
    values = tokens * shape.values
    if work.plan is None:
        return values * _PLAIN_FLOP / speeds.float32
    most = work.plan.most_coefficients
    looked_at = sum(work.plan.lag_ranks) + min(_LEADING, most) + _LOOKED_AT
    beyond = _SHARE_BEYOND * max(most - _LEADING, 0)
    return values * (2 * (looked_at + beyond) + _CODING_FLOP) / speeds.float32


def _held_bytes(shape: Shape, work: Work) -> float:
    """The most bytes that are held at a time, beside the models."""
    every = [one for own in work.windows for one in own]
    wide = 4 * shape.values
    logits = 4 * shape.vocabulary
    judge = sum(one.context * wide + one.read * logits for one in every)
    judge += sum(one.context * wide for one in work.tasks)
    batch = sorted(every, key=lambda one: one.context)[-_BATCH_WINDOWS:]
    trial = sum(2 * one.context * wide + 2 * one.read * logits for one in batch)
    if work.plan is None:
        sample = 3 * work.context_tokens * wide
        counts = 8 * 256 * NUM_LEVELS * shape.values
        return judge + max(trial, sample + counts, _long_bytes(work, wide, logits))
    plan = work.plan
    features = 4 * shape.vocabulary * work.features
    kept = 4 * _rows(shape, work) * work.num_samples * shape.values
    columns = shape.values
    widths = [columns * len(group) / sum(map(len, plan.groups)) for group in plan.groups]
    known = len(plan.lag_ranks) * work.features
    learning = plan.learning_bytes + features
    gradients = 6 * work.context_tokens * wide + 4 * work.read_tokens * logits
    solving = 8 * (2 * sum(w**2 for w in widths) + 3 * known * columns + 4 * max(widths) ** 2)
    transform = 12 * plan.most_coefficients * columns
    phases = {
        "features": 3 * features,
        "moments": learning + kept + max(plan.learning_bytes, gradients),
        "solving": learning + kept + max(solving, plan.learning_bytes),
        "levels": kept + transform + trial,
        "lengths": kept + transform + _long_bytes(work, wide, logits),
    }
    return judge + max(phases.values())


def _long_bytes(work: Work, wide: int, logits: int) -> float:
    """Of the long contexts: all of them, and one that is coded and continued."""
    own = [one.context * wide + one.read * logits for one in work.long]
    return sum(own) + 3.0 * max(own, default=0)
