"""The three observations behind the CacheGen paper's codec, measured on the reference model.

    .venv/bin/python benchmarks/rate_observations.py [--json]

O1: neighbouring tokens are alike: variance of values over that of deltas from the anchor of their
group of ten. O2: shallow layers are more sensitive: KL where only a third of the layers is coded
coarsely. O3: a value's distribution depends on channel and layer: bits per value of ideal tables,
one for each member of a grouping, on values rounded to half of their plane's RMS; entropies of
the coded contexts themselves, with nothing charged for the tables.
Contexts are the novels and texts that the rate-quality study measures on.
"""

from __future__ import annotations

import argparse
import json

from cachegen import refmodel
from cachegen.cli.models import load_model
from cachegen.engines.transformers.cache import capture
from cachegen.engines.transformers.rope import rope_map
from rate.observations import dependence, locality, sensitivity
from rate.texts import domains
from record import append

WINDOWS = 8


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    options = parser.parse_args()
    model, tokenizer = load_model(refmodel.weights_path())
    found = domains(tokenizer, num_windows=WINDOWS, num_tasks=1)
    windows = [*found.windows["novels"], *found.windows["technical"]]
    caches = [capture(model, window.context) for window in windows]
    rope = rope_map(model)
    rows = locality(caches, rope) + sensitivity(model, windows, caches, rope)
    rows += dependence(caches, rope)
    append("rate_observations", rows)
    if options.json:
        print(json.dumps({"rows": rows}))
        return
    for row in rows:
        print(f"{row['observation']}  {row['what']:32}{row['value']:.4f}")


if __name__ == "__main__":
    main()
