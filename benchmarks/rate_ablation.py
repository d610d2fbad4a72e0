"""What each part of the transform codec is worth, along a greedy path of configurations.

Every configuration is learned from the same samples, gets the same steps, and is measured in real
bytes like any method. The path starts from principal components of each plane as it is cached.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict

from cachegen import refmodel
from cachegen.cli.models import load_model
from cachegen.engines.transformers.learning import token_features
from cachegen.engines.transformers.rope import rope_map
from cachegen.engines.transformers.tasks import first_tokens
from rate.ablation import configured_coders, path
from rate.curves import bits_at, of
from rate.measure import evaluators, measure_all
from rate.texts import CONTINUATION_TOKENS, domains, learning_samples
from record import append

TARGET_KL = 0.003


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=12, help="in each domain")
    parser.add_argument("--contexts", type=int, default=60, help="to learn from")
    parser.add_argument("--only", action="append", help="name of a configuration; repeatable")
    options = parser.parse_args()
    model, tokenizer = load_model(refmodel.weights_path())
    learned = learning_samples(
        model, tokenizer, count=options.contexts, continuation_tokens=CONTINUATION_TOKENS
    )
    features = token_features(model, prefix=first_tokens(tokenizer))
    found = domains(tokenizer, num_windows=options.windows, num_tasks=1, data=None)
    judges, run = evaluators(model, found.windows), int(time.time())
    for configuration in path(learned[0].kv.num_layers):
        if options.only and configuration.name not in options.only:
            continue
        coders = configured_coders(configuration, learned, rope_map(model), features)
        with configuration.rounding():
            rows = [row for every in measure_all(coders, judges) for row in every]
        append("rate_ablation", [{"run": run} | asdict(row) for row in rows])
        at = {name: bits_at(of(rows, configuration.name, name), TARGET_KL) for name in judges}
        print(f"{configuration.name:24}", at, flush=True)


if __name__ == "__main__":
    main()
