"""Bits per value against quality, for every method, on text that no profile has seen.

    .venv/bin/python benchmarks/rate_quality.py [--quick] [--json] [--data DIR]
    .venv/bin/python benchmarks/rate_quality.py --plot FILE.svg

Every method is given 1,536 tokens of context; all bytes it stores count, the profile apart. KL,
perplexity and top-1 agreement are those of the next 128 tokens. Domains: novels, technical English,
generated retrieval tasks. All methods learn from the same text. Coders that do not decode the same
twice, or decode for other tokens, end the run before anything is measured.

`--quick` takes under 5 minutes: 16 windows a domain, 240 questions. The full run takes 64 windows
and 1,008 questions. Rows are appended to benchmarks/results/rate_quality.csv and
rate_summary.csv; `--plot` draws the newest run of the first.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rate.curves import summarise
from rate.hostile import hostile
from rate.report import record, report, say
from rate.study import FULL, QUICK, curves, exact_match, prepare, timing


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="under 5 minutes")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    parser.add_argument("--data", type=Path, help="folder of *.txt: more novels to measure on")
    parser.add_argument("--model", type=Path, help="folder of another model; needs --data")
    parser.add_argument("--profile", type=Path, help="of --model; its folder's own by default")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the newest rows, no run")
    options = parser.parse_args()
    if options.plot:
        from rate.plot import plot

        plot(options.plot)
        return
    if options.model:
        sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
        from rate.models import study as study_model

        found = study_model(
            options.model, options.data, options.profile, quick=options.quick, say=say
        )
        record(*found, quick=options.quick, study="model")
        report(*found, as_json=options.json)
        return
    effort = QUICK if options.quick else FULL
    study = prepare(effort, options.data)
    rows = curves(study)
    say("hostile inputs")
    wild = hostile(study.model, study.tokenizer, study.profile, contexts=effort.hostile_contexts)
    summary = summarise(rows, study.profile.default_level) | exact_match(study) | timing(study)
    summary |= {
        "kl_arithmetic": str(study.profile.geometry.dtype).removeprefix("torch."),
        "noise_floor_kl": study.profile.noise_floor,
    }
    record(rows, wild, summary, quick=options.quick)
    report(rows, wild, summary, as_json=options.json)


if __name__ == "__main__":
    main()
