"""The tables that the demo prints."""

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


def show_chat(result: dict[str, Any]) -> None:
    """Size, speed and quality of every level, and the answers side by side."""
    rows = [
        [
            level["name"] + (" *" if level["name"] == result["default_level"] else ""),
            f"{level['bytes']:,}",
            f"{level['bits_per_value']:.2f}",
            f"{level['ratio_fp16']:.1f}x",
            f"{1e3 * level['load_s']:.1f}",
            f"{level['kl']:.5f}",
            f"{level['top1']:.0%}",
        ]
        for level in result["levels"]
    ]
    load_ms = 1e3 * result["prefill_s"] * result["load_over_prefill"]
    title = (
        f"{result['model']}: {result['context_tokens']} tokens, prefill "
        f"{1e3 * result['prefill_s']:.0f} ms, load {load_ms:.0f} ms (* default level)"
    )
    columns = ["level", "bytes", "bits/value", "vs fp16", "load ms", "KL of answers", "top-1"]
    print_table(title, columns, rows)
    answers = [[a["question"], a["uncompressed"], a["loaded"]] for a in result["answers"]]
    equal = sum(answer["equal"] for answer in result["answers"])
    title = f"{result['questions']} questions on one loaded context, {equal} answers the same"
    print_table(
        title,
        ["question", "uncompressed", f"loaded from {result['default_level']}"],
        answers,
        texts=True,
    )
    for line in _remarks(result):
        print(line)


def _remarks(result: dict[str, Any]) -> list[str]:
    """What people should know of the model and its profile."""
    folder, lines = result["model"], []
    if not result["chat_template"]:
        lines.append("The model has no chat template: it was asked in plain text.")
    if result["profile"] is None:
        lines.append(
            "No profile: levels are uncalibrated, larger, and of a quality that nobody measured. "
            f"Make one: cachegen calibrate --model {folder} --text FILE"
        )
    return lines


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
