"""What a calibration has found, as people or scripts read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cachegen.cli.output import print_json, print_table


def show(profile_path: Path, *, as_json: bool) -> None:
    """Print the levels of a profile, a row for each kind of text."""
    from cachegen.cli.explain import explain_profile

    fields = explain_profile(profile_path.read_bytes())
    if as_json:
        print_json(fields)
        return
    rows = [
        _row(level["name"], domain, quality)
        for level in fields["levels"]
        for domain, quality in _by_domain(level).items()
    ]
    print_table(
        f"{profile_path}: default level {fields['default_level']}, {fields['bytes']:,} bytes",
        [
            "level",
            "domain",
            "bits/value",
            "KL",
            "of answers",
            "perplexity",
            "+-",
            "top-1",
            "exact match",
        ],
        rows,
    )
    for sentence in fields.get("note_out_of_reach", "").splitlines():
        print(sentence)


def _by_domain(level: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The qualities of a level, those on long contexts too."""
    long = level.get("long", {"domains": {}})
    found: dict[str, dict[str, Any]] = dict(level["domains"])
    for domain, quality in long["domains"].items():
        found[f"{domain}, {long['context_tokens']} tokens"] = quality
    return found


def _row(level: str, domain: str, quality: dict[str, Any]) -> list[str]:
    shown = ("bits_per_value", "kl", "answer_kl", "rel_ppl", "rel_ppl_error", "top1")
    figures = [str(quality.get(key, "")) for key in shown]
    exact = ""
    if "exact_match" in quality:
        exact = f"{quality['exact_match']:.3f} of {quality['exact_match_uncompressed']:.3f}"
    return [level, domain, *figures, exact]
