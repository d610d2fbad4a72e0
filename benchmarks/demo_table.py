"""Run the demo and write its tables into docs/benchmarks.md; `make` users see what this measured.

.venv/bin/python benchmarks/demo_table.py
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile

from record import ROOT, append, cpu_name

PARTS = ("lookup", "fetch", "decode", "recompute")
MARKERS = re.compile(r"<!-- demo -->.*<!-- /demo -->", re.DOTALL)


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "cachegen.cli", "demo", "--json"]
        command += ["--timeline", f"{scratch}/load.svg"]
        result = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    link = result["link"]
    append("demo", [{**summary(result), **level} for level in result["levels"]])
    append("demo_link", [{**link_summary(link), **row} for row in link["rows"]])
    page = ROOT / "docs" / "benchmarks.md"
    text = "\n".join(["<!-- demo -->", *levels_table(result), *link_table(link), "<!-- /demo -->"])
    page.write_text(MARKERS.sub(lambda _: text, page.read_text()))


def link_summary(link: dict[str, object]) -> dict[str, object]:
    return {name: link[name] for name in ("kind", "mbit_s", "context_tokens", "questions")}


def summary(result: dict[str, object]) -> dict[str, object]:
    names = ("context_tokens", "questions", "prefill_s")
    return {name: result[name] for name in names} | {
        "uncompressed_correct": result["answers_correct"]
    }


def levels_table(result: dict[str, object]) -> list[str]:
    prefill_s, default = result["prefill_s"], result["default_level"]
    lines = [
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
    return [
        *lines,
        "",
        f"Measured by `cachegen demo` on {cpu_name()}: a document of {result['context_tokens']} "
        f"tokens and {result['questions']} questions, the shipped 4 M-parameter model (which "
        f"answers {result['answers_correct']:.0%} of them without any coding), medians of "
        "interleaved runs, one process saving and another loading from local disk; 8-bit is the "
        "level `packed`. `benchmarks/demo_table.py` writes these tables.",
        "",
    ]


def link_table(link: dict[str, object]) -> list[str]:
    lines = [
        f"| over {link['mbit_s']:g} Mbit/s | TTFT | bytes | lookup | fetch | decode | recompute "
        "| KL, nats/token | same answers |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in link["rows"]:
        parts = " | ".join(f"{1e3 * row[f'{part}_s']:.0f} ms" for part in PARTS)
        lines.append(
            f"| {row['method']} | **{1e3 * row['ttft_s']:.0f} ms** | {row['bytes']:,} | {parts} "
            f"| {row['kl']:.5f} | {row['answers_equal']:.0%} |"
        )
    return [
        *lines,
        "",
        f"The demo's second part: {link['context_tokens']} tokens in chunks of "
        f"{link['chunk_tokens']}, `cachegen serve` on the far side of a link shaped to "
        f"{link['mbit_s']:g} Mbit/s ({link['kind']}), medians of interleaved loads, each checked "
        f"bit for bit, {link['questions']} questions. TTFT ends when the cache is there; its "
        "parts overlap. `text` is a full prefill, `raw` the cache in 16 bits, 8-bit `packed`.",
    ]


if __name__ == "__main__":
    main()
