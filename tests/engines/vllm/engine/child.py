"""An engine in a process of its own: what it is asked is JSON in its arguments, and so its answer.

python -m tests.engines.vllm.engine.child '{"model": ..., "extra": {...}, "prompts": [...]}'
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[4]
# It takes 20 s alone on two cores; beside 15 other programs five minutes were not enough.
LIMIT_S = 1200.0


def ask(question: dict[str, Any], *, timeout_s: float = LIMIT_S) -> dict[str, Any]:
    """Run a child, and return what it answers."""
    done = subprocess.run(
        [sys.executable, "-m", __name__, json.dumps(question)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("answer ")]
    assert lines, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return json.loads(lines[-1].removeprefix("answer "))


def main() -> None:
    from tests.engines.vllm.engine.served import served

    question = json.loads(sys.argv[1])
    with served(question["model"], question["extra"], **question.get("options", {})) as engine:
        out, each_s = [], []
        for turn in range(question.get("rounds", 1)):
            if turn:
                engine.settle()
                engine.forget()
            for tokens in question["prompts"]:
                began_s = time.perf_counter()
                out += engine.run([tokens], max_tokens=question.get("max_tokens", 16))
                each_s.append(time.perf_counter() - began_s)
        answer = {
            "texts": [list(each.outputs[0].token_ids) for each in out],
            "cached": [each.num_cached_tokens for each in out],
            "each_s": each_s,
        }
        if question["extra"] is not None:
            engine.settle()
            answer["counts"] = engine.counts()
        print("answer", json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
