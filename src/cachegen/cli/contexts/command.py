"""`save` and `load`: a text's KV cache into a store, and out of it to answer a prompt."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from cachegen.cli.models import load_model, read_tokens
from cachegen.cli.output import progress_bar, report

ModelFolder = Annotated[Path, typer.Option("--model", help="Folder of a transformers model.")]
TextFile = Annotated[Path, typer.Option("--text", help="Text file: the context.")]
StoreUrl = Annotated[
    str,
    typer.Option(
        "--store",
        help="Folder, or URL: cachegen:// cachegens:// redis:// rediss:// s3:// gs:// az:// "
        "http:// https:// file:// memory:",
    ),
]
ProfileFile = Annotated[
    Path | None, typer.Option("--profile", help="Profile; default: the shipped one, if any.")
]
Salt = Annotated[str, typer.Option(help="Tenant: contexts of other salts are never seen.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def save(
    model: ModelFolder,
    text: TextFile,
    store: StoreUrl,
    profile: ProfileFile = None,
    level: Annotated[
        list[str] | None, typer.Option(help="Level to store; repeatable; default: all.")
    ] = None,
    chunk_tokens: Annotated[int, typer.Option(help="Tokens of a chunk, a multiple of 64.")] = 1536,
    salt: Salt = "",
    as_json: AsJson = False,
) -> None:
    """Prefill a text once and store its KV cache."""
    from cachegen.engines.transformers import save_context

    network, tokenizer = load_model(model)
    tokens = read_tokens(text, tokenizer)
    began = time.perf_counter()
    with progress_bar(quiet=as_json) as progress:
        progress.begin(f"prefill {len(tokens)} tokens")

        def show(done: int, total: int) -> None:
            progress.update("encode", completed=done, total=total)

        manifest = save_context(
            network,
            tokens,
            store=store,
            profile=_profile(profile),
            levels=level or None,
            chunk_tokens=chunk_tokens,
            salt=salt.encode(),
            progress=show,
        )
    sizes: dict[str, int] = {}
    for chunk in manifest.chunks:
        for stored in chunk.objects:
            sizes[stored.level] = sizes.get(stored.level, 0) + stored.size_bytes
    fields = {
        "context_id": manifest.context_id.hex(),
        "tokens": manifest.num_tokens,
        "chunks": len(manifest.chunks),
        "bytes": sizes,
        "seconds": round(time.perf_counter() - began, 3),
    }
    report(fields, as_json=as_json)


def load(
    model: ModelFolder,
    text: TextFile,
    store: StoreUrl,
    prompt: Annotated[str, typer.Option(help="Text to append to the context.")] = "",
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to generate.")] = 32,
    profile: ProfileFile = None,
    level: Annotated[
        str | None,
        typer.Option(help="Level; default: what ends soonest at the profile's default quality."),
    ] = None,
    slo: Annotated[
        float | None, typer.Option(help="Deadline of the load in seconds.", min=0)
    ] = None,
    timeline: Annotated[
        Path | None, typer.Option(help="File for a picture of the load, .svg or .html.")
    ] = None,
    salt: Salt = "",
    as_json: AsJson = False,
) -> None:
    """Load a text's KV cache from a store and continue from it."""
    import torch

    from cachegen.cli.timeline import draw
    from cachegen.cli.timeline import write as write_timeline
    from cachegen.engines.transformers import load_context
    from cachegen.store import shared_store

    opened = shared_store(store, create=False)
    network, tokenizer = load_model(model)
    tokens = read_tokens(text, tokenizer)
    tokens += tokenizer(prompt, add_special_tokens=False).input_ids
    loaded = load_context(
        network,
        tokens,
        store=opened,
        profile=_profile(profile),
        level=level,
        slo_s=slo,
        salt=salt.encode(),
    )
    if timeline is not None:
        title = f"Load of {text.name}"
        write_timeline(timeline, draw(loaded.result, title=title, deadline_s=slo), title=title)
    ids = torch.tensor([tokens], device=network.device)
    output = network.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        past_key_values=loaded.cache,
        max_new_tokens=max_new_tokens,
        do_sample=False,
    )
    fields = {
        "tokens": len(tokens),
        "tokens_loaded": loaded.num_tokens,
        "bytes": loaded.result.size_bytes,
        "levels": sorted({chunk.level or "missing" for chunk in loaded.result.chunks}),
        "problems": sorted({chunk.reason for chunk in loaded.result.chunks if chunk.reason}),
        "load_s": round(loaded.result.ttft_s, 4),
        "seconds": {
            "lookup": round(loaded.result.lookup_s, 4),
            "fetch": round(loaded.result.fetch_s, 4),
            "decode": round(loaded.result.decode_s, 4),
            "recompute": round(loaded.result.recompute_s, 4),
        },
        "decisions": [
            f"{timed.at_s:.3f} s: chunk {timed.decision.chunk}: {timed.decision.action} "
            f"{timed.decision.level}: {timed.decision.reason}"
            for timed in loaded.result.decisions
        ],
        "text": tokenizer.decode(output[0, len(tokens) :], skip_special_tokens=True),
    }
    report(fields, as_json=as_json)


def _profile(path: Path | None) -> Any:
    from cachegen.codec.profile import read_profile

    return None if path is None else read_profile(path)
