"""Measure an exported model: exact match by family and length, perplexity on held-out novels.

    python training/evaluate.py [--model DIR] [--data DIR] [--questions 120] [--json]

Without --data the shipped held-out texts serve as filler and for perplexity.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
from corpus_tokens import encode, read_novels
from probe import correct_answers, count_tokens_with, text_loss
from transformers import AutoModelForCausalLM, AutoTokenizer

from cachegen.refmodel import FAMILIES, generate, load_text, text_names, weights_path

LENGTHS = (512, 1024, 1536, 2048, 4096)
FIRST_SEED = 1_000_000


def wilson_interval(right: int, total: int, *, z: float = 1.96) -> tuple[float, float]:
    """The 95% confidence interval of a share."""
    share, spread = right / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / total + spread / total / 4) / (1 + spread)
    return round(max(0.0, middle - half), 3), round(min(1.0, middle + half), 3)


def held_out_text(data: Path | None) -> str:
    if data is not None:
        return read_novels(data / "corpus/eltec-eng.valid.txt.xz")
    return "\n".join(
        load_text(name)
        for name in text_names()
        if name.startswith("heldout-") and name != "heldout-python"
    )


def measure(
    model: Any, tokenizer: Any, family: str, num_tokens: int, *, text: str, questions: int
) -> dict[str, Any]:
    right: list[bool] = []
    seed, count = FIRST_SEED, count_tokens_with(tokenizer)
    while len(right) < questions:
        task = generate(family, num_tokens=num_tokens, seed=seed, count_tokens=count, filler=text)
        right += correct_answers(model, tokenizer, task)
        seed += 1
    low, high = wilson_interval(sum(right), len(right))
    share = round(sum(right) / len(right), 3)
    return {
        "family": family,
        "num_tokens": num_tokens,
        "questions": len(right),
        "exact_match": share,
        "low": low,
        "high": high,
    }


def evaluate(folder: Path, *, data: Path | None, questions: int, lengths: list[int]) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = held_out_text(data)
    rows = [
        measure(model, tokenizer, family, n, text=text, questions=questions)
        for family in FAMILIES
        for n in lengths
    ]
    tokens = encode(tokenizer, [text])[0]
    loss = text_loss(model, tokens, length=1024, num_windows=40)
    characters_per_token = len(text) / len(tokens)
    return {
        "parameters": model.num_parameters(),
        "valid_loss": round(loss, 4),
        "valid_perplexity": round(math.exp(loss), 2),
        "bits_per_character": round(loss / math.log(2) / characters_per_token, 3),
        "tasks": rows,
    }


def table(result: Any) -> str:
    """The result as Markdown."""
    lengths = sorted({row["num_tokens"] for row in result["tasks"]})
    lines = ["| family | " + " | ".join(str(n) for n in lengths) + " |"]
    lines.append("|---" * (len(lengths) + 1) + "|")
    for family in FAMILIES:
        rows = {row["num_tokens"]: row for row in result["tasks"] if row["family"] == family}
        cells = [f"{r['exact_match']:.2f} ({r['low']:.2f}-{r['high']:.2f})" for r in rows.values()]
        lines.append(f"| {family} | " + " | ".join(cells) + " |")
    facts = (f"{name}: {value}" for name, value in result.items() if name != "tasks")
    return "\n".join([*lines, "", *facts])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=weights_path())
    parser.add_argument("--data", type=Path)
    parser.add_argument("--questions", type=int, default=120)
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    result = evaluate(args.model, data=args.data, questions=args.questions, lengths=args.lengths)
    print(json.dumps(result) if args.json else table(result))


if __name__ == "__main__":
    main()
