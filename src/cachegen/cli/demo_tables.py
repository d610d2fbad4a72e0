"""What the demo prints for people."""

from __future__ import annotations

from typing import Any

from cachegen.cli.output import print_table

_PARTS = ("lookup", "fetch", "decode", "recompute")


def show_levels(result: dict[str, Any]) -> None:
    """Size, speed and quality of every level."""
    rows = [
        [
            level["name"] + (" *" if level["name"] == result["default_level"] else ""),
            f"{level['bytes']:,}",
            f"{level['bits_per_value']:.2f}",
            f"{level['ratio_fp16']:.1f}x",
            f"{level['ratio_int8']:.1f}x",
            f"{1e3 * level['encode_s']:.1f}",
            f"{1e3 * level['load_s']:.1f}",
            f"{level['kl']:.5f}",
            f"{level['answers_correct']:.0%}",
            f"{level['answers_equal']:.0%}",
        ]
        for level in result["levels"]
    ]
    columns = ["level", "bytes", "bits/value", "vs fp16", "vs int8", "encode ms", "load ms", "KL"]
    title = (
        f"{result['context_tokens']} tokens, {result['questions']} questions; "
        f"prefill {1e3 * result['prefill_s']:.0f} ms, "
        f"answers without a stored cache {result['answers_correct']:.0%} correct (* default level)"
    )
    print_table(title, [*columns, "correct", "same answer"], rows)


def show_link(found: dict[str, Any]) -> None:
    """What each method took over the link, and what became of the load while the rate fell."""
    rows = [
        [
            row["method"],
            f"{1e3 * row['ttft_s']:.0f}",
            f"{row['bytes']:,}",
            *(f"{1e3 * row[f'{part}_s']:.0f}" for part in _PARTS),
            f"{row['kl']:.5f}",
            f"{row['answers_correct']:.0%}",
            f"{row['answers_equal']:.0%}",
        ]
        for row in found["rows"]
    ]
    title = (
        f"{found['context_tokens']} tokens over a link of {found['mbit_s']:g} Mbit/s "
        f"({found['kind']}: {found['reason']}); times in ms, parts overlap"
    )
    columns = ["method", "TTFT", "bytes", *_PARTS, "KL", "correct", "same answer"]
    print_table(title, columns, rows)
    falling = found["falling"]
    levels = ", ".join(map(str, falling["levels"]))
    print(
        f"The rate fell to {falling['to_mbit_s']:g} Mbit/s halfway: adaptive load in "
        f"{1e3 * falling['ttft_s']:.0f} ms, deadline {1e3 * falling['slo_s']:.0f} ms; "
        f"chunks: {levels}; picture: {falling['timeline']}"
    )
