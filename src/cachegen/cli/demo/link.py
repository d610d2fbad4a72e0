"""The demo's second part: loading a document from a server over a slow link."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from cachegen.cli import timeline
from cachegen.cli.demo.client import Client
from cachegen.cli.demo.reader import DemoReader, Judge
from cachegen.cli.demo.writer import WriterJob
from cachegen.codec.levels import PACKED, RAW
from cachegen.engines.transformers import save_context
from cachegen.evaluation.times.falling import load_while_falling
from cachegen.loading.result import LoadResult
from cachegen.netem import Link, open_link
from cachegen.netem.serving import serving
from cachegen.store import open_store

# Arbitrary: 3 to 9 do, an odd number for the median.
REPEATS = 3
# Arbitrary: 4 to 20 do; so much that a load in eight bits misses its deadline.
FALL = 10.0
# Arbitrary: 1.2 to 2 do; the deadline in times of a load in eight bits at the full rate.
_SPARE = 1.5
_PARTS = ("ttft_s", "lookup_s", "fetch_s", "decode_s", "recompute_s")


def compare(
    job: WriterJob, *, mbit_s: float, picture: Path, step: Callable[[str], None]
) -> dict[str, Any]:
    """Store the document, serve it over a link of this rate, and have it by every method.

    Args:
        job: the document.
        mbit_s: the rate of the link.
        picture: file for the timeline of a load during which the link's rate falls.
        step: called with what is being done.

    Raises:
        CacheGenError: the server does not start, or a load gave wrong keys or values.
    """
    step("prefill and encode a longer document")
    reader = DemoReader(job)
    judge = Judge(reader)
    save_context(
        reader.model,
        job.tokens,
        store=job.store,
        profile=reader.profile,
        levels=job.levels,
        chunk_tokens=job.chunk_tokens,
    )
    with open_link(mbit_s) as link, serving(link, Path(job.store)) as url:
        client = Client(reader, open_store(url))
        rows = _rows(client, judge, step)
        step("load while the rate of the link falls")
        falling = _falling(client, link, mbit_s, rows, picture)
        return {
            "kind": link.kind,
            "reason": link.reason,
            "mbit_s": mbit_s,
            "context_tokens": len(job.tokens),
            "chunk_tokens": job.chunk_tokens,
            "questions": len(job.prompts),
            "rows": rows,
            "falling": falling,
        }


def _rows(client: Client, judge: Judge, step: Callable[[str], None]) -> list[dict[str, Any]]:
    """Medians of interleaved runs after one to warm up, and the quality of what they gave."""
    default = client.reader.profile.default_level
    methods: dict[str, Callable[[], LoadResult]] = {
        "text": client.compute,
        "raw": lambda: client.load(RAW),
        "8-bit": lambda: client.load(PACKED),
        f"CacheGen {default}": lambda: client.load(default),
        "CacheGen adaptive": lambda: client.load(None),
    }
    runs: dict[str, list[LoadResult]] = {name: [] for name in methods}
    for repeat in range(REPEATS + 1):
        for name, run in methods.items():
            step(f"over the link: {name}, {repeat} of {REPEATS}")
            runs[name].append(run())
    step("answer from what came over the link")
    return [_row(name, _median(found[1:]), judge) for name, found in runs.items()]


def _median(runs: list[LoadResult]) -> LoadResult:
    return sorted(runs, key=lambda run: run.ttft_s)[len(runs) // 2]


def _row(name: str, run: LoadResult, judge: Judge) -> dict[str, Any]:
    assert run.kv is not None
    times = {part: round(getattr(run, part), 5) for part in _PARTS}
    levels = sorted({str(chunk.level) for chunk in run.chunks})
    quality = {key: round(value, 6) for key, value in judge.compare(run.kv).items()}
    return {"method": name, "levels": levels, "bytes": run.size_bytes, **times, **quality}


def _falling(
    client: Client, link: Link, mbit_s: float, rows: list[dict[str, Any]], picture: Path
) -> dict[str, Any]:
    """An adaptive load with a deadline that 8-bit loading would meet, did the rate not fall."""
    slo_s = _SPARE * next(row["ttft_s"] for row in rows if row["method"] == "8-bit")
    low = mbit_s / FALL
    result, rates = load_while_falling(
        partial(client.load, None), link, mbit_s=mbit_s, low_mbit_s=low, slo_s=slo_s
    )
    title = f"{len(result.chunks)} chunks over a link that falls from {mbit_s:g} to {low:g} Mbit/s"
    drawing = timeline.draw(result, title=title, rates=rates, deadline_s=slo_s)
    timeline.write(picture, drawing, title=title)
    return {
        "to_mbit_s": low,
        "slo_s": round(slo_s, 5),
        "ttft_s": round(result.ttft_s, 5),
        "bytes": result.size_bytes,
        "levels": [chunk.level for chunk in result.chunks],
        "timeline": str(picture),
    }
