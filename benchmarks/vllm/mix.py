"""The request mix of a trace at rising load, by vLLM alone and with CacheGen's connector.

.venv-vllm/bin/python benchmarks/vllm/mix.py TRACE [--loads R ...] [--json] [--only MODEL]

TRACE is a JSON-lines file of conversations with `hash_ids`, as Mooncake's
`conversation_trace.jsonl`: which beginnings requests share is kept, lengths are an eighth, prompts
that are longer than 4,096 tokens even so are left out, and answers end after 16. vLLM has room for
20,480 tokens, so that a beginning may be gone when it is asked for again; the connector's store is
behind a link of `--mbit` Mbit/s, and has nothing of the texts of a load when it begins. A load is a
mean number of requests a second.

`hit_ratio` is of all tokens of prompts those that were not computed, from either cache;
`repeated_ratio` is what none can exceed, beginnings that came before in blocks of 64 tokens (caches
have blocks of 128, and chunks of 256), and `why_not` counts requests that loaded nothing, by the
connector's reason.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving.prompts import models
from serving.replay import Replayed, replay
from serving.report import quantile
from serving.sweep import opened, say, warm_up
from serving.trace import prompt, read, repeated_tokens, spread

# 160 blocks of 128 tokens: some of the conversations, not all.
_ROOM = ("--num-gpu-blocks-override", "160", "--block-size", "128")
_MOST_TOKENS, _MOST_OUTPUT = 4096, 16


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # servers end with their blocks
    arguments = _arguments()
    asked = read(
        arguments.trace, every=arguments.every, most_tokens=_MOST_TOKENS, most_output=_MOST_OUTPUT
    )[: arguments.requests]
    rows: list[dict[str, Any]] = []
    model = models(arguments.only)[0]
    with (
        tempfile.TemporaryDirectory() as folder,
        opened(model, Path(folder), options=_ROOM) as bench,
    ):
        warm_up(bench)
        bench.link.set_rate(arguments.mbit)
        for seed, load in enumerate(arguments.loads):
            prompts = [prompt(each, bench.prompts.other, seed=seed) for each in asked]
            outputs = [each.output_tokens for each in asked]
            repeated = round(repeated_tokens(asked) / sum(map(len, prompts)), 3)
            for method, client in (("alone", bench.alone), ("cachegen", bench.connected)):
                client.forget()
                before = bench.connected.counts()
                found = replay(client, prompts, outputs, spread(asked, load))
                after = bench.connected.settled()
                new = {name: value - before.get(name, 0.0) for name, value in after.items()}
                row = {"model": model.name, "load_per_s": load, **_row(method, found, new)}
                row["prompt_tokens"] = sum(map(len, prompts))
                row["hit_ratio"] = round(_hits(found) / row["prompt_tokens"], 3)
                rows.append({**row, "repeated_ratio": repeated, "why_not": _why(new)})
                say(json.dumps(rows[-1]))
    sys.path.append(str(Path(__file__).parents[1]))
    from record import append

    append("vllm_mix", rows)
    if arguments.json:
        print(json.dumps({"rows": rows}, indent=1))


def _row(method: str, found: Replayed, new: dict[str, float]) -> dict[str, Any]:
    times = [time.ttft_s for time in found.times]
    is_connected = method == "cachegen"
    return {
        "method": method,
        "requests": len(times),
        "failures": found.failures,
        "ttft_s_p50": round(statistics.median(times), 3),
        "ttft_s_p95": round(quantile(times, 0.95), 3),
        "requests_per_s": round(len(times) / found.seconds, 3),
        "loaded_tokens": round(new.get("tokens_loaded", 0)) if is_connected else 0,
        "loaded_bytes": round(new.get("bytes_loaded", 0)) if is_connected else 0,
        "saved_bytes": round(new.get("bytes_saved", 0)) if is_connected else 0,
    }


def _why(new: Mapping[str, float]) -> str:
    """Reasons, the most frequent first; none of a server without a connector."""
    reasons = {name[7:]: count for name, count in new.items() if name.startswith("misses:")}
    told = sorted(reasons.items(), key=lambda reason: -reason[1])
    return ", ".join(f"{reason} {count:.0f}" for reason, count in told if count)


def _hits(found: Replayed) -> int:
    return sum(time.hit_tokens for time in found.times)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("trace", type=Path)
    parser.add_argument("--loads", type=float, nargs="+", default=[0.25, 0.5, 1.0])
    parser.add_argument("--requests", type=int, default=120, help="at each load")
    parser.add_argument("--every", type=int, default=10, help="of so many conversations one")
    parser.add_argument("--mbit", type=float, default=100.0, help="rate of the link")
    parser.add_argument("--only", help="one model: smollm2-135m or reference-4m")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    main()
