"""A forecast of the cost of a calibration, and of what is left of an interrupted one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from cachegen.cli.calibration.costs import TRIALS, Costs, Piece, Shape, Work, costs_of
from cachegen.cli.calibration.speeds import measure_speeds, shape_of
from cachegen.cli.calibration.texts import Material, SampleSizes
from cachegen.cli.memory import resident_bytes
from cachegen.codec.calibration.checkpoint import Checkpoint
from cachegen.codec.calibration.sizing import TransformSizes, describe_plans, plan_groups

# Stands for the memory of Python, torch and transformers where the system does not tell what is
# resident. Arbitrary: 3 * 10^8 to 10^9 do; what is reported are gigabytes.
_LIBRARIES_BYTES = 5e8


def describe_choices(
    network: Any, *, max_profile_mb: float, max_features: int
) -> tuple[TransformSizes, list[str]]:
    """What `transform` will learn, and lines for people about what it could have learned.

    Raises:
        ValueError: the profile has no room for anything.
    """
    from cachegen.engines import transformers as engine

    geometry = engine.capture(network, [0]).geometry
    shape, windows = _features_shape(network, max_features), engine.windows_of(network)
    try:
        plan = plan_groups(geometry, shape, max_profile_mb=max_profile_mb, windows=windows)
        lines = describe_plans(geometry, shape, max_profile_mb=max_profile_mb, windows=windows)
    except ValueError as exc:
        raise ValueError(f"--max-profile-mb {max_profile_mb}: {exc}") from exc
    return plan, lines


def _features_shape(network: Any, max_features: int) -> tuple[int, int]:
    return network.get_input_embeddings().weight.shape[0], max_features


def forecast(
    network: Any,
    twin: Any,
    writer: Any,
    material: Material,
    sizes: SampleSizes,
    *,
    preset: str,
    plan: TransformSizes | None,
    max_features: int,
    most_coded: int,
) -> Costs:
    """Measure this machine for some seconds, and what calibrating on it will cost.

    Args:
        network: the model in its own dtype.
        twin: the model in float32; perhaps the same.
        writer: the one of both that prefills.
        material: texts and questions.
        sizes: how much of them.
        preset: `transform`, `plain` or `paper`.
        plan: what `transform` learns; None in the others.
        max_features: of a token by itself.
        most_coded: windows of a domain that are coded at the end.
    """
    from cachegen.engines.transformers.learning import DRAWS, MOST_TOKENS

    shape = shape_of(network)
    tokens = next(iter(chain.from_iterable(material.windows.values()))).context
    speeds = measure_speeds(writer, twin, tokens, shape)
    work = work_of(
        material,
        sizes,
        preset=preset,
        plan=plan,
        features=max_features,
        most_coded=most_coded,
        asked_tokens=min(shape.vocabulary, MOST_TOKENS),
        draws=DRAWS,
    )
    resident = resident_bytes() or _LIBRARIES_BYTES + _weights(network, twin, shape)
    return costs_of(shape, work, speeds, resident_bytes=resident)


def _weights(network: Any, twin: Any, shape: Shape) -> float:
    """Bytes of the models' weights."""
    size = (shape.body + shape.head) * float(shape.value_bytes)
    return size if twin is network else size + 4 * (shape.body + shape.head)


def work_of(
    material: Material,
    sizes: SampleSizes,
    *,
    preset: str,
    plan: TransformSizes | None,
    features: int,
    most_coded: int,
    asked_tokens: int,
    draws: int,
) -> Work:
    """The amount of work that this material means."""
    windows = [
        [Piece(len(one.context), len(one.continuation) - 1) for one in own]
        for own in material.windows.values()
    ]
    tasks = [
        Piece(len(task.context), sum(map(len, (*task.prompts, *task.answers))))
        for task in material.tasks
    ]
    return Work(
        preset=preset,
        context_tokens=sizes.context_tokens,
        read_tokens=sizes.read_tokens,
        num_samples=sizes.num_samples,
        draws=draws,
        windows=windows,
        tasks=tasks,
        long=[
            Piece(len(one.context), len(one.continuation) - 1)
            for own in material.long_windows.values()
            for one in own
        ],
        coded=[one for own in windows for one in own[:most_coded]],
        features=features,
        asked_tokens=asked_tokens,
        plan=plan,
    )


def left_of(costs: Costs, checkpoint: Checkpoint, *, num_samples: int) -> Costs:
    """The rest of a prediction, given the checkpoints of an interrupted run."""
    shares = dict.fromkeys(costs.seconds, 1.0)
    if checkpoint.state("transform") is not None:
        shares |= {"features": 0.0, "moments": 0.0, "solving": 0.0}
    elif (moments := checkpoint.state("moments")) is not None:
        shares |= {"features": 0.0, "moments": 1 - _count(moments["position"]) / num_samples}
    elif checkpoint.state("features") is not None:
        shares["features"] = 0.0
    if checkpoint.state("statistics") is not None:
        shares["statistics"] = 0.0
    if (trials := checkpoint.state("levels")) is not None:
        shares["levels"] = max(1 - len(trials["trials"]) / TRIALS, 0.0)
    if checkpoint.state("lengths") is not None:
        shares["lengths"] = 0.5
    left = {name: shares[name] * took for name, took in costs.seconds.items()}
    return replace(costs, seconds={name: took for name, took in left.items() if took})


def _count(position: Sequence[Any]) -> int:
    """The number of samples that a checkpoint's position stands behind."""
    return int(position[0])
