"""One adaptive load over a link that collapses and recovers, as a picture: docs/timeline.svg.

It is the first of a few in which a transfer was abandoned, and the last one where none was.

.venv/bin/python benchmarks/timeline.py
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path

from cachegen.cli.demo.client import Client
from cachegen.cli.demo.link import serving
from cachegen.cli.demo.reader import DemoReader
from cachegen.cli.demo.writer import make_job
from cachegen.cli.timeline import draw, write
from cachegen.codec.levels import PACKED
from cachegen.engines.transformers import save_context
from cachegen.evaluation.times.falling import load_while_falling
from cachegen.netem import open_link
from cachegen.store import open_store
from record import ROOT

MBIT_S, LOW_MBIT_S, LOW_S = 20.0, 0.5, 0.6
SHARE = 0.4
SLO_S = 2.0
ATTEMPTS = 5
NUM_TOKENS, CHUNK_TOKENS = 4608, 256


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch, open_link(MBIT_S) as link:
        reader = stored(Path(scratch) / "store")
        with serving(link, Path(reader.job.store)) as url:
            client = Client(reader, open_store(url))
            for level in reader.job.levels:
                client.load(level)
            for _ in range(ATTEMPTS):
                client.load(PACKED)
                result, rates = load_while_falling(
                    partial(client.load, None),
                    link,
                    mbit_s=MBIT_S,
                    low_mbit_s=LOW_MBIT_S,
                    slo_s=SLO_S,
                    share=SHARE,
                    low_s=LOW_S,
                )
                if any(span.outcome == "abandoned" for span in result.spans):
                    break
                link.set_rate(MBIT_S)
    title = (
        f"One load of {result.num_tokens:,} tokens over a link that falls from {MBIT_S:g} to "
        f"{LOW_MBIT_S:g} Mbit/s and recovers ({link.kind})"
    )
    picture = draw(result, title=title, rates=rates, deadline_s=SLO_S)
    write(ROOT / "docs" / "timeline.svg", picture, title=title)
    print(f"{title}: {result.ttft_s:.3f} s", file=sys.stderr)


def stored(folder: Path) -> DemoReader:
    job = make_job(
        None,
        None,
        data=None,
        folder=folder,
        num_tokens=NUM_TOKENS,
        num_questions=1,
        chunk_tokens=CHUNK_TOKENS,
        seed=1,
    )
    reader = DemoReader(job)
    reader.prefill()
    save_context(
        reader.model,
        job.tokens,
        store=job.store,
        profile=reader.profile,
        levels=job.levels,
        chunk_tokens=CHUNK_TOKENS,
    )
    return reader


if __name__ == "__main__":
    main()
