"""Curves of a profile: KL against bits per value of its levels, a curve for each domain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Stands for a KL of 0 on a logarithmic axis. Arbitrary: 10^-7 to 10^-5 do; no lossy level has less.
LEAST_KL = 1e-6


@dataclass(frozen=True, slots=True)
class Curve:
    """The curve of one domain of a profile.

    Attributes:
        domain: the kind of text.
        levels: names, smallest first.
        kl: nats per token at each level, at least `LEAST_KL`.
        bits: bits per value at each level; None where they were not measured.
    """

    domain: str
    levels: tuple[str, ...]
    kl: tuple[float, ...]
    bits: tuple[float, ...] | None


def curves_of(levels: Sequence[dict[str, Any]]) -> list[Curve]:
    """The curves of levels as `explain_profile` describes them; none where nothing was measured."""
    domains = dict.fromkeys(name for level in levels for name in level.get("domains", {}))
    return [_curve(name, levels) for name in domains]


def _curve(domain: str, levels: Sequence[dict[str, Any]]) -> Curve:
    found = {
        level["name"]: level["domains"][domain]
        for level in levels
        if domain in level.get("domains", {})
    }
    bits = [one["bits_per_value"] for one in found.values() if "bits_per_value" in one]
    return Curve(
        domain,
        tuple(found),
        tuple(max(one["kl"], LEAST_KL) for one in found.values()),
        tuple(bits) if len(bits) == len(found) else None,
    )


def have_bits(curves: Sequence[Curve]) -> bool:
    """Whether every curve knows its bits per value."""
    return all(curve.bits is not None for curve in curves)


def level_names(curves: Sequence[Curve]) -> list[str]:
    """Of all curves, smallest first, each once."""
    return list(dict.fromkeys(name for curve in curves for name in curve.levels))
