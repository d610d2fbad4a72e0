"""Run the demo and write its table into README.md; `make` users see what this measured.

.venv/bin/python benchmarks/demo_table.py
"""

from __future__ import annotations

import json
import re
import subprocess
import sys

from record import ROOT, append, cpu_name

MARKERS = re.compile(r"<!-- demo -->.*<!-- /demo -->", re.DOTALL)


def main() -> None:
    command = [sys.executable, "-m", "cachegen.cli", "demo", "--json"]
    result = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    append("demo", [{**summary(result), **level} for level in result["levels"]])
    readme = ROOT / "README.md"
    readme.write_text(MARKERS.sub(table(result), readme.read_text()))


def summary(result: dict[str, object]) -> dict[str, object]:
    names = ("context_tokens", "questions", "prefill_s")
    return {name: result[name] for name in names} | {
        "uncompressed_correct": result["answers_correct"]
    }


def table(result: dict[str, object]) -> str:
    prefill_s, default = result["prefill_s"], result["default_level"]
    lines = [
        "<!-- demo -->",
        "| level | bytes | vs fp16 | vs 8-bit | load / prefill | KL, nats/token | same answers |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for level in result["levels"]:
        name = f"**{level['name']}** (default)" if level["name"] == default else level["name"]
        lines.append(
            f"| {name} | {level['bytes']:,} | {level['ratio_fp16']:.1f}x "
            f"| {level['ratio_int8']:.1f}x | {level['load_s'] / prefill_s:.1%} "
            f"| {level['kl']:.5f} | {level['answers_equal']:.0%} |"
        )
    lines += [
        "",
        f"Measured by `cachegen demo` on {cpu_name()}: a document of {result['context_tokens']} "
        f"tokens and {result['questions']} questions, the shipped 4 M-parameter model (which "
        f"answers {result['answers_correct']:.0%} of them without any coding), medians of "
        "interleaved runs, one process saving and another loading from local disk; 8-bit is the "
        "level `packed`. `benchmarks/demo_table.py` writes this table.",
        "<!-- /demo -->",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
