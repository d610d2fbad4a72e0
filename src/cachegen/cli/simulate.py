"""`simulate`: what loads would take over a given link, without any of it being there."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cachegen.cli.output import print_json, print_table, progress_bar
from cachegen.cores import available_cores

if TYPE_CHECKING:
    from cachegen.simulation.scenario import Context
    from cachegen.simulation.trace import Trace
    from cachegen.simulation.trials import Outcome

POLICIES = ("min_ttft", "algorithm1", "fixed:high", "fixed:raw", "text")


def simulate(
    model: Annotated[
        str, typer.Option(help="Whose cache it is, and whose prefill.", rich_help_panel="Context")
    ] = "Llama-3.1-8B",
    tokens: Annotated[
        int, typer.Option(help="Length of the context.", rich_help_panel="Context")
    ] = 16384,
    chunk_tokens: Annotated[
        int, typer.Option(help="Tokens of a chunk.", rich_help_panel="Context")
    ] = 1536,
    manifest: Annotated[
        Path | None,
        typer.Option(
            help="Manifest of a stored context: its chunks and sizes instead.",
            rich_help_panel="Context",
        ),
    ] = None,
    bits: Annotated[
        list[str] | None,
        typer.Option(
            help="LEVEL=BITS per value; repeatable; default: the reference model's.",
            rich_help_panel="Context",
        ),
    ] = None,
    default_level: Annotated[
        str, typer.Option(help="Level when nothing presses.", rich_help_panel="Context")
    ] = "high",
    gpu: Annotated[
        str, typer.Option(help="What prefills and decodes.", rich_help_panel="Machine")
    ] = "A100-80G",
    gpus: Annotated[int, typer.Option(help="How many of them.", rich_help_panel="Machine")] = 1,
    trace: Annotated[
        str,
        typer.Option(
            help="constant:MBIT, step:S@MBIT,..., random:LOW-HIGH\\[@S], a shipped trace or "
            "a file.",
            rich_help_panel="Link",
        ),
    ] = "constant:3000",
    mean_mbit_s: Annotated[
        float | None,
        typer.Option("--mbit", help="Scale the trace to this mean.", rich_help_panel="Link"),
    ] = None,
    speed_up: Annotated[
        float, typer.Option(help="Let it change so many times as fast.", rich_help_panel="Link")
    ] = 1.0,
    request_ms: Annotated[
        float,
        typer.Option(
            help="From a request to its first byte: more where the store is far.",
            rich_help_panel="Link",
        ),
    ] = 2.0,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            help="min_ttft, algorithm1, fixed:LEVEL or recompute; repeatable.",
            rich_help_panel="Loads",
        ),
    ] = None,
    slo_s: Annotated[
        float | None, typer.Option("--slo", help="Deadline, seconds.", rich_help_panel="Loads")
    ] = None,
    loads: Annotated[
        int, typer.Option(help="How many loads of each policy.", rich_help_panel="Loads")
    ] = 100,
    concurrency: Annotated[
        int, typer.Option(help="How many begin together.", rich_help_panel="Loads")
    ] = 1,
    seed: Annotated[
        int,
        typer.Option(help="Of random traces and of where loads begin.", rich_help_panel="Loads"),
    ] = 0,
    jobs: Annotated[
        int | None,
        typer.Option(
            help="Processes; all cores where there are many loads.", rich_help_panel="Loads"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Simulate loads over a bandwidth trace, with the controllers that real loads use."""
    from cachegen.simulation.geometries import find_model
    from cachegen.simulation.hardware import costs_of, find_gpu
    from cachegen.simulation.specs import parse_policy, parse_trace
    from cachegen.simulation.trials import Trials, outcome_of
    from cachegen.simulation.workers import run_all

    link = parse_trace(trace, seed=seed).sped_up(speed_up)
    link = link if mean_mbit_s is None else link.scaled(mean_mbit_s)
    geometry = find_model(model)
    context = _context(
        manifest,
        geometry.name,
        tokens=tokens,
        chunk_tokens=chunk_tokens,
        bits=bits,
        default_level=default_level,
    )
    costs = costs_of(geometry, find_gpu(gpu), num_gpus=gpus, request_s=request_ms / 1e3)
    trials = Trials(context, costs, link, slo_s, loads, concurrency, seed)
    policies = [parse_policy(text) for text in policy or POLICIES]
    began_s = time.perf_counter()
    with progress_bar(quiet=as_json) as shown:
        shown.begin("loads")
        results = run_all(
            trials,
            policies,
            jobs=available_cores() if jobs is None else jobs,
            progress=lambda done, total: shown.update(completed=done, total=total),
        )
    seconds = time.perf_counter() - began_s
    loads_per_s = sum(map(len, results.values())) / seconds
    outcomes = {name: outcome_of(some) for name, some in results.items()}
    assumed = _assumptions(
        gpu, gpus, request_ms=request_ms, has_sizes=manifest is not None or bool(bits)
    )
    if as_json:
        found = _as_json(geometry.name, context, link, outcomes)
        print_json({**found, "loads_per_s": round(loads_per_s), "assumed": assumed})
    else:
        _show(geometry.name, context, link, outcomes)
        print(f"Simulated {loads_per_s:.0f} loads/s")
        print("Assumed: " + "; ".join(assumed))


def _context(
    manifest: Path | None,
    model: str,
    *,
    tokens: int,
    chunk_tokens: int,
    bits: list[str] | None,
    default_level: str,
) -> Context:
    from cachegen.simulation.geometries import context_of, find_model

    if manifest is not None:
        from cachegen.bitstream.manifest import read_manifest
        from cachegen.simulation.stored import context_from

        return context_from(read_manifest(manifest.read_bytes()), default_level=default_level)
    return context_of(
        find_model(model),
        num_tokens=tokens,
        chunk_tokens=chunk_tokens,
        bits=_bits(bits),
        default_level=default_level,
    )


def _assumptions(gpu: str, num_gpus: int, *, request_ms: float, has_sizes: bool) -> list[str]:
    from cachegen.simulation.hardware import DECODE_GB_S, UTILISATION

    assumed = [
        f"prefill at {UTILISATION:.0%} of the published bf16 rate of {num_gpus} x {gpu}",
        f"decoding at {DECODE_GB_S:g} GB/s of cache",
        f"{request_ms:g} ms from a request to its first byte",
    ]
    sizes = "bits per value as measured on the shipped reference model"
    return assumed if has_sizes else [*assumed, sizes]


def _bits(texts: list[str] | None) -> dict[str, float] | None:
    if not texts:
        return None
    known = {}
    for text in texts:
        level, _, value = text.partition("=")
        try:
            known[level] = float(value)
        except ValueError as error:
            raise ValueError(f"expected LEVEL=BITS, got {text!r}") from error
    return known


def _as_json(
    model: str, context: Context, link: Trace, outcomes: dict[str, Outcome]
) -> dict[str, object]:
    return {
        "model": model,
        "tokens": context.num_tokens,
        "chunks": len(context.chunks),
        "trace": link.name,
        "mean_mbit_s": link.mean_bytes_per_s * 8e-6,
        "policies": {name: asdict(outcome) for name, outcome in outcomes.items()},
    }


def _show(model: str, context: Context, link: Trace, outcomes: dict[str, Outcome]) -> None:
    columns = ("policy", "TTFT median", "p95", "MB", "recomputed", "deadline met", "levels")
    rows = [
        (
            name,
            f"{outcome.ttft_median_s:.3f} s",
            f"{outcome.ttft_p95_s:.3f} s",
            f"{outcome.mean_bytes / 1e6:.1f}",
            f"{outcome.recomputed:.0%}",
            "-" if outcome.met is None else f"{outcome.met:.0%}",
            ", ".join(f"{level} {share:.0%}" for level, share in outcome.levels.items()),
        )
        for name, outcome in outcomes.items()
    ]
    title = (
        f"{model}, {context.num_tokens} tokens in {len(context.chunks)} chunks, {link.name} "
        f"(mean {link.mean_bytes_per_s * 8e-6:.0f} Mbit/s)"
    )
    print_table(title, columns, rows)
