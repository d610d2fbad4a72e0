"""`eval`: the paper's tables and figures on a model of one's own."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cachegen.cli.models import PROFILE, load_tokenizer, load_twins
from cachegen.cli.output import print_json, print_table, progress_bar
from cachegen.evaluation.sections.cost import ASSUMED, Prices

if TYPE_CHECKING:
    from cachegen.codec.profile import Profile
    from cachegen.evaluation.results import Result

_WHAT, _HOW_MUCH, _PRICES = "What", "How much", "Prices assumed"


def evaluate(
    model: Annotated[Path, typer.Option(help="Folder of a transformers model.")],
    data: Annotated[Path, typer.Option(help="Folder of the datasets (docs/guide/eval.md).")],
    out: Annotated[
        Path, typer.Option(help="Folder for the report, made where it is missing; resumed.")
    ],
    profile: Annotated[
        Path | None,
        typer.Option(help="Of the model; default: cachegen/profile.safetensors in --model."),
    ] = None,
    methods: Annotated[
        str, typer.Option(help="Names, with commas between.", rich_help_panel=_WHAT)
    ] = "",
    datasets: Annotated[
        str, typer.Option(help="Names, with commas between.", rich_help_panel=_WHAT)
    ] = "",
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Minutes: few cases, few points.", rich_help_panel=_HOW_MUCH),
    ] = False,
    context_tokens: Annotated[
        int | None, typer.Option(help="The most tokens of a case.", rich_help_panel=_HOW_MUCH)
    ] = None,
    cases: Annotated[
        int | None, typer.Option(help="Cases of each dataset.", rich_help_panel=_HOW_MUCH)
    ] = None,
    gb_month: Annotated[
        float,
        typer.Option(help="Dollars for a stored GB and month.", rich_help_panel=_PRICES),
    ] = ASSUMED.gb_month,
    machine_hour: Annotated[
        float, typer.Option(help="Dollars for an hour of this machine.", rich_help_panel=_PRICES)
    ] = ASSUMED.machine_hour,
    seed: Annotated[int, typer.Option(help="Of every random choice.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Evaluate: quality against size of every method, as tables, CSV and one page of HTML.

    Every method codes the contexts of every dataset; quality is what the model then says, in
    float32 arithmetic. A run that was cut off goes on where it was when the same command is given
    again; a method that fails costs its own numbers only.
    """
    _check(context_tokens, cases)
    try:
        from cachegen.evaluation.evaluate import evaluate as measured
        from cachegen.evaluation.job import FULL, QUICK, Job, with_choices
        from cachegen.evaluation.report import write_report
    except ModuleNotFoundError as error:
        raise ValueError(f"{error}: pip install 'cachegen[eval]'") from error
    chosen = with_choices(
        QUICK if quick else FULL,
        methods=_names(methods),
        datasets=_names(datasets),
        context_tokens=context_tokens,
        cases=cases,
    )
    prices = Prices(gb_month=gb_month, machine_hour=machine_hour)
    out.mkdir(parents=True, exist_ok=True)
    with progress_bar(quiet=False, counts=True) as display:
        display.begin("model and texts")
        models = _models(model)
        job = Job(
            name=_called(model),
            models=models,
            profile=_profile(model, profile, models.writer),
            data=data,
            out=out,
            effort=chosen,
            seed=seed,
            command=shlex.join(["cachegen", *sys.argv[1:]]),
            prices=prices,
        )
        result = measured(
            job,
            tell=display.tell,
            progress=lambda done, total: display.update("cases", completed=done, total=total),
        )
        write_report([result], out)
    if as_json:
        print_json(printed(result))
    else:
        _show(result, out)


def printed(result: Result) -> dict[str, Any]:
    """What a script reads: the model, the rows and the summary."""
    whole = asdict(result)
    return {
        "model": result.model.name,
        **{name: whole[name] for name in ("kl_arithmetic", "rows", "failures", "summary")},
    }


def _check(context_tokens: int | None, cases: int | None) -> None:
    for name, number in (("--context-tokens", context_tokens), ("--cases", cases)):
        if number is not None and number < 1:
            raise ValueError(f"expected {name} of at least 1, got {number}")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _called(folder: Path) -> str:
    from cachegen.refmodel import weights_path

    is_shipped = folder.resolve() == weights_path().resolve()
    return "reference-4m" if is_shipped else folder.resolve().name


def _models(folder: Path) -> Any:
    from cachegen.engines.transformers.arithmetic import prefiller
    from cachegen.evaluation.judge import Models

    network, twin = load_twins(folder)
    return Models(network, twin, load_tokenizer(folder), prefiller(network, twin))


def _profile(folder: Path, given: Path | None, network: Any) -> Profile | None:
    """What is given, else what lies with the model, else what comes with the package."""
    from cachegen.codec.profile import read_profile, shipped_profile
    from cachegen.engines.transformers import fingerprint

    path = given or folder / PROFILE
    if given or path.exists():
        return read_profile(path)
    return shipped_profile(fingerprint(network))


def _show(result: Result, out: Path) -> None:
    rows = [
        [
            f"{row.method} {row.level}",
            row.dataset,
            f"{row.bits_per_value:.3f}",
            f"{row.kl:.5f}",
            "" if row.rel_ppl is None else f"{row.rel_ppl:+.4f}",
            f"{row.top1:.3f}",
            "" if row.score is None else f"{row.score:.3f} of {row.score_uncompressed:.3f}",
            str(row.n),
        ]
        for row in result.rows
    ]
    columns = ["method", "dataset", "bits/value", "KL", "perplexity", "top-1", "score", "n"]
    print_table(result.model.name, columns, rows)
    for failure in result.failures:
        print(f"{failure.method} {failure.level} failed: {failure.reason}")
    print(f"report: {out / 'report.html'}")
