"""`calibrate`: a profile for a model, from text."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cachegen.cli.calibration.report import show
from cachegen.cli.calibration.texts import (
    CONTINUATION_TOKENS,
    LONG_CONTINUATION_TOKENS,
    Material,
    SampleSizes,
    read_material,
)
from cachegen.cli.models import PROFILE, load_tokenizer, load_twins, most_positions
from cachegen.cli.new_file import check_place, reads_as, write_checked
from cachegen.cli.output import Display, progress_bar
from cachegen.cli.run_log import LoggedDisplay, RunLog

if TYPE_CHECKING:
    from cachegen.cli.calibration.costs import Costs
    from cachegen.codec.calibration.checkpoint import Checkpoint
    from cachegen.codec.calibration.long_contexts import LongTexts
    from cachegen.codec.calibration.progress import Progress, Status
    from cachegen.codec.calibration.sample import RoundTrip
    from cachegen.codec.calibration.sizing import TransformSizes
    from cachegen.codec.levels import Quality
    from cachegen.codec.profile import Profile
    from cachegen.engines.transformers.arithmetic import Prefiller
    from cachegen.engines.transformers.quality import Evaluator

# As of `token_features`, which says what fewer cost; bounds the moments of features, (3 * 1024)^2
# numbers in float64.
_MOST_FEATURES = 1024
_SLOW = "this machine computes {dtype} slowly: contexts are prefilled in float32, and rounded"
_MEASURING = "measuring this machine"
# So many contexts of every domain are coded to measure the sizes of levels. Arbitrary: 1 to 8 do.
_MOST_CODED = 2
# In 128 MB SmolLM2 has all coefficients that are of use, but a model of 0.6 B too few for the
# promise (docs/decisions/2026-11-29-token-weights.md). The share is arbitrary: 2% to 10% do.
_LEAST_PROFILE_MB, _SHARE_OF_WEIGHTS = 128.0, 0.05
_BESIDE_THE_WEIGHTS = (
    "vLLM takes every *.safetensors beside a model's weights for weights; move the profile away "
    "before vLLM serves the model, or leave --output out"
)


def calibrate(
    model: Annotated[Path, typer.Option(help="Folder of a transformers model.")],
    text: Annotated[
        list[str],
        typer.Option(help="\\[NAME=]FILE of text like what will be coded; repeatable."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Profile; default: cachegen/profile.safetensors in --model."
        ),
    ] = None,
    tasks: Annotated[
        Path | None,
        typer.Option(help='Questions: lines of {"context": ..., "prompt": ..., "answer": ...}.'),
    ] = None,
    preset: Annotated[
        str, typer.Option(help="transform, plain or paper.", rich_help_panel="How much")
    ] = "transform",
    max_profile_mb: Annotated[
        float | None,
        typer.Option(
            help="Largest profile of transform; 5% of the weights, at least 128.",
            rich_help_panel="How much",
        ),
    ] = None,
    context_tokens: Annotated[
        int, typer.Option(help="Tokens of a sample context.", rich_help_panel="How much")
    ] = 1536,
    num_samples: Annotated[
        int, typer.Option(help="Contexts to learn from.", rich_help_panel="How much")
    ] = 32,
    num_windows: Annotated[
        int, typer.Option(help="Contexts a domain to measure on.", rich_help_panel="How much")
    ] = 6,
    long_tokens: Annotated[
        int,
        typer.Option(
            help="Tokens of a long context, one a domain, that the default level keeps its promise "
            "on too; fewer where the model takes fewer, 0 for none.",
            rich_help_panel="How much",
        ),
    ] = 8192,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Calibrate: learn from text and place the levels by measured quality.

    Every file is a domain, and a level is as good as in its worst. The first three quarters of
    every file are learned from, the last quarter is measured on. A run that was cut off goes on
    where it was when the same command is given again: what is done is kept in OUTPUT.partial.

    How long it will take and how much memory is said first; that, what is found, and what it
    really took are added to OUTPUT.log.
    """
    from cachegen.cli.calibration.forecast import describe_choices
    from cachegen.codec.profile import CODECS_WITH_PROFILE
    from cachegen.engines.transformers.arithmetic import prefiller

    if preset not in CODECS_WITH_PROFILE:
        raise ValueError(f"expected a preset of {', '.join(CODECS_WITH_PROFILE)}; got {preset!r}")
    from cachegen.codec.profile import read_profile

    tokenizer = load_tokenizer(model)
    output = output or _place_in(model)
    if output.suffix == PROFILE.suffix and output.parent.resolve() == model.resolve():
        print(f"{output}: {_BESIDE_THE_WEIGHTS}", file=sys.stderr)
    place = check_place(output, check=read_profile)
    read_tokens = CONTINUATION_TOKENS if preset == "transform" else 0
    long_tokens = _long_tokens(model, asked=long_tokens, shorter=context_tokens)
    sizes = SampleSizes(context_tokens, num_samples, num_windows, read_tokens, long_tokens)
    warnings: list[str] = []
    material = read_material(text, tasks, tokenizer, sizes, tell=warnings.append)
    for line in warnings:
        print(line, file=sys.stderr)
    network, twin = load_twins(model)
    if max_profile_mb is None:
        weights = sum(one.numel() * one.element_size() for one in network.parameters())
        max_profile_mb = max(_LEAST_PROFILE_MB, _SHARE_OF_WEIGHTS * weights / 1e6)
    plan, choices = None, list[str]()
    if preset == "transform":
        plan, choices = describe_choices(
            network, max_profile_mb=max_profile_mb, max_features=_MOST_FEATURES
        )
    run = _Run(
        model=network,
        twin=twin,
        prefill=prefiller(network, twin),
        tokenizer=tokenizer,
        material=material,
        sizes=sizes,
        preset=preset,
        max_profile_mb=max_profile_mb,
        plan=plan,
    )
    kept = place.with_name(place.name + ".partial")
    log = RunLog(
        place.with_name(place.name + ".log"), complain=lambda line: print(line, file=sys.stderr)
    )
    log.write(f"cachegen {version('cachegen')}: {preset} of {model} from {', '.join(text)}")
    if run.prefill.model is not network:
        choices.append(_SLOW.format(dtype=str(network.dtype).removeprefix("torch.")))
    log.write("\n".join((*warnings, *choices)))
    for line in choices:
        print(line, file=sys.stderr)
    try:
        with progress_bar(quiet=False, counts=True) as display:
            _run(run, place=place, kept=kept, display=LoggedDisplay(display, log))
    except KeyboardInterrupt:
        told = "nothing was kept yet"
        if kept.is_dir():
            told = f"{kept} keeps what is done; give the same command again to go on from there"
        print(f"\nInterrupted: {told}.", file=sys.stderr)
        raise
    show(output, as_json=as_json)


def _place_in(model: Path) -> Path:
    place = model / PROFILE
    try:
        place.parent.mkdir(exist_ok=True)
    except OSError as exc:
        raise ValueError(f"no profile can be written in {model}: {exc}; give --output") from exc
    return place


def _long_tokens(model: Path, *, asked: int, shorter: int) -> int:
    """Of a long context: what the model takes, or 0 where that is no more than the others have."""
    if asked < 0:
        raise ValueError(f"expected --long-tokens of at least 0, got {asked}")
    most = most_positions(model)
    fitting = asked if most is None else min(asked, most - LONG_CONTINUATION_TOKENS)
    return fitting if fitting > shorter else 0


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """The inputs of a calibration.

    Attributes:
        model: the model in its own dtype.
        twin: the same model in float32.
        prefill: computes caches, by the one of both that is quick here.
        tokenizer: the model's tokenizer.
        material: texts and questions.
        sizes: amounts of material.
        preset: `transform`, `plain` or `paper`.
        max_profile_mb: size limit of a `transform` profile.
        plan: what `transform` will learn; None for other presets.
    """

    model: Any
    twin: Any
    prefill: Prefiller
    tokenizer: Any
    material: Material
    sizes: SampleSizes
    preset: str
    max_profile_mb: float
    plan: TransformSizes | None


def _run(run: _Run, *, place: Path, kept: Path, display: LoggedDisplay) -> None:
    """Say what it will cost, calibrate, put the profile in its place, and say what it cost."""
    from cachegen.cli.calibration.account import Account, how_it_ended
    from cachegen.codec.calibration.checkpoint import PHASES, Checkpoint
    from cachegen.engines import transformers as engine

    fingerprint = engine.fingerprint(run.model)
    checkpoint = Checkpoint(kept, _inputs(fingerprint, run), tell=display.tell)
    display.begin(_MEASURING)
    account = Account(_forecast(run, checkpoint))
    display.tell(account.prediction)
    try:
        profile = _profile(run, fingerprint, checkpoint=checkpoint, display=display)
        write_checked(place, profile.file_bytes, check=reads_as(profile, place))
    except BaseException as exc:
        display.end(account.ended(how_it_ended(exc)))
        raise
    display.end(account.ended("finished"))
    checkpoint.drop(*PHASES)


def _forecast(run: _Run, checkpoint: Checkpoint) -> Costs:
    from cachegen.cli.calibration.forecast import forecast, left_of

    costs = forecast(
        run.model,
        run.twin,
        run.prefill.model,
        run.material,
        run.sizes,
        preset=run.preset,
        plan=run.plan,
        max_features=_MOST_FEATURES,
        most_coded=_MOST_CODED,
    )
    return left_of(costs, checkpoint, num_samples=run.sizes.num_samples)


def _inputs(fingerprint: bytes, run: _Run) -> bytes:
    """A digest of all that decides the profile; progress of any other is not taken up."""
    from cachegen.engines.transformers.learning import DRAWS

    deciding = {
        "model": fingerprint.hex(),
        "material": run.material.digest(),
        "sizes": asdict(run.sizes),
        "preset": run.preset,
        "max_profile_mb": run.max_profile_mb,
        "features": _MOST_FEATURES,
        "draws": DRAWS,
        "prefilled in": str(run.prefill.model.dtype),
        "versions": [version(name) for name in ("cachegen", "torch", "transformers")],
    }
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).digest()


def _shown(display: Display, phases: tuple[str, ...]) -> Progress:
    """Shows every report with the phases that follow."""
    display.update(_with_next(phases[0], phases))

    def show(status: Status) -> None:
        phase = _with_next(status.phase, phases)
        display.update(phase, completed=status.done, total=status.total)
        if status.message:
            display.tell(status.message)

    return show


def _with_next(phase: str, phases: tuple[str, ...]) -> str:
    following = phases[phases.index(phase) + 1 :] if phase in phases else ()
    return f"{phase} (then {', '.join(following)})" if following else phase


def _profile(run: _Run, fingerprint: bytes, *, checkpoint: Checkpoint, display: Display) -> Profile:
    from cachegen.bitstream.rates import PHASE as SIZES
    from cachegen.bitstream.rates import with_rates
    from cachegen.codec.calibration.calibrate import PHASES, calibrate
    from cachegen.codec.calibration.sample import START
    from cachegen.engines import transformers as engine
    from cachegen.engines.transformers.quality import REFERENCE

    network, material, sizes = run.model, run.material, run.sizes
    progress = _shown(display, (REFERENCE, *PHASES[run.preset], SIZES))
    prefix = engine.first_tokens(run.tokenizer)
    judge = engine.evaluator(
        run.twin,
        material.windows,
        material.tasks,
        tokenizer=run.tokenizer,
        prefill=run.prefill,
        progress=progress,
    )
    features = partial(
        engine.token_features,
        run.prefill.model,
        prefix=prefix,
        max_features=_MOST_FEATURES,
        frequent=[token for text in material.learned for token in text],
        progress=progress,
    )
    profile = calibrate(
        lambda after=START, /: engine.samples(
            run.prefill.model,
            material.learned,
            num_tokens=sizes.context_tokens,
            count=sizes.num_samples,
            continuation_tokens=sizes.read_tokens,
            prefix=prefix,
            twin=run.twin,
            dtype=network.dtype,
            after=after,
        ),
        evaluate=lambda roundtrip: judge(engine.coded_as(roundtrip, network.dtype)),
        noise_floor=engine.noise_floor(judge, network),
        long=_long_texts(run, progress),
        fingerprint=fingerprint,
        rope=engine.rope_map(network),
        preset=run.preset,
        token_features=features if run.preset == "transform" else None,
        max_profile_mb=run.max_profile_mb,
        windows=engine.windows_of(network),
        notes={
            "texts": ", ".join(material.windows),
            "samples": str(sizes.num_samples),
            "context_tokens": str(sizes.context_tokens),
        },
        num_samples=sizes.num_samples,
        checkpoint=checkpoint,
        progress=progress,
    )
    contexts = judge.contexts(dtype=network.dtype, most=_MOST_CODED)
    return with_rates(profile, contexts, progress=progress)


def _long_texts(run: _Run, progress: Progress) -> LongTexts | None:
    """Long contexts, prefilled when they are first asked for; None where there are none."""
    from cachegen.codec.calibration.long_contexts import PHASE, LongTexts, in_chunks
    from cachegen.engines import transformers as engine

    def prefilling(status: Status) -> None:
        progress(replace(status, phase=PHASE))

    windows, sizes = run.material.long_windows, run.sizes
    if not windows:
        return None

    @cache
    def judge() -> Evaluator:
        return engine.evaluator(run.twin, windows, prefill=run.prefill, progress=prefilling)

    def evaluate(roundtrip: RoundTrip) -> Mapping[str, Quality]:
        coded = engine.coded_as(roundtrip, run.model.dtype)
        found: Mapping[str, Quality] = judge()(in_chunks(coded, sizes.context_tokens))
        return found

    return LongTexts(sizes.long_tokens, evaluate)
