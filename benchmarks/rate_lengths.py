"""Bits and KL against the length of a context, coded chunk by chunk as contexts are stored.

    .venv/bin/python benchmarks/rate_lengths.py --model DIR --data DIR [--profile FILE]
        [--level NAME] [--lengths 1536,4096,7800] [--windows N] [--json]

The model runs in float32, its caches are rounded to the profile's dtype before they are coded. The
texts are those of `rate_quality.py --model`: novels, WikiText and conversations that no profile has
learned from. Ways that a context is used:

    stored     every chunk is coded and decoded
    continued  the first half of the chunks is coded and decoded, the rest prefilled on top of that
               and then coded: a context that grew
    mixed      the first half is computed anew, the rest decoded

Rows are printed as they come and appended to benchmarks/results/model_lengths.csv.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from cachegen.cli.models import PROFILE, load_network, load_tokenizer
from cachegen.codec.codec import resolve_level
from cachegen.codec.profile import read_profile
from cachegen.evaluation.methods.presets import profile_coder
from rate.lengths import Chunks, measure
from record import append


def main() -> None:
    options = _options()
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from rate.models import divided, held_out_texts, windows_of

    profile = read_profile(options.profile or options.model / PROFILE)
    level = resolve_level(profile, options.level).name
    tokenizer, model = load_tokenizer(options.model), load_network(options.model, dtype="float32")
    chunks = Chunks(model, profile_coder("transform", profile, level), profile.geometry.dtype)
    quarters = held_out_texts(tokenizer, options.data, divided(tokenizer, options.data))
    for length in options.lengths:
        for domain, own in quarters.items():
            try:
                windows = windows_of(tokenizer, own, count=options.windows, num_tokens=length)
            except ValueError as exc:
                print(f"{domain}, {length} tokens: left out, {exc}", file=sys.stderr)
                continue
            rows = [
                {"model": options.model.name, "level": level, "context_tokens": length, **row}
                for row in measure(model, chunks, domain, windows)
            ]
            append("model_lengths", rows)
            for row in rows:
                text = (f"{key}={value}" for key, value in row.items())
                print(json.dumps(row) if options.json else " ".join(text), flush=True)


def _options() -> Any:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="folder of a model")
    parser.add_argument("--data", type=Path, required=True, help="see rate_quality.py --model")
    parser.add_argument("--profile", type=Path, help="of the model; its folder's own by default")
    parser.add_argument("--level", help="of the profile; its default level by default")
    parser.add_argument(
        "--lengths",
        type=lambda text: [int(part) for part in text.split(",")],
        default=[1536, 4096, 7800],
        help="tokens of the contexts",
    )
    parser.add_argument("--windows", type=int, default=2, help="contexts a domain and length")
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    return parser.parse_args()


if __name__ == "__main__":
    main()
