"""From rows to figures: bits at equal KL on the same domain, and the worst over domains."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cachegen.evaluation import curves
from rate.measure import Row


def bits_at(rows: Sequence[Row], kl: float) -> float | None:
    """Bits per value at which a curve reaches this KL; None outside of it."""
    return curves.bits_at([(row.bits_per_value, row.kl) for row in rows], kl)


def of(rows: Sequence[Row], method: str, domain: str) -> list[Row]:
    """The curve of a method on a domain."""
    return [row for row in rows if (row.method, row.domain) == (method, domain)]


def reaches(rows: Sequence[Row], method: str, default_level: str) -> bool:
    """Whether a method's finest step is as good as the default level, in every domain."""
    default = [row for row in rows if (row.method, row.level) == ("transform", default_level)]
    return all(min(r.kl for r in of(rows, method, own.domain)) <= own.kl for own in default)


def begins(rows: Sequence[Row], method: str, default_level: str) -> bool:
    """Whether a method's coarsest step is no better than the default level, in every domain."""
    default = [row for row in rows if (row.method, row.level) == ("transform", default_level)]
    return all(max(r.kl for r in of(rows, method, own.domain)) >= own.kl for own in default)


def bits_at_default(
    rows: Sequence[Row], method: str, default: Sequence[Row]
) -> tuple[float | None, float | None, str | None]:
    """What a method needs at the KL of the default level, in the domain where we win least.

    Returns:
        Its bits per value there, these over the default level's own in the same domain, and the
        domain. None where the method's curve spans the KL in no domain.
    """
    found = []
    for own in default:
        bits = bits_at(of(rows, method, own.domain), own.kl)
        if bits is not None:
            found.append((bits / own.bits_per_value, bits, own.domain))
    if not found:
        return None, None, None
    ratio, bits, domain = min(found)
    return bits, ratio, domain


def summarise(
    rows: Sequence[Row], default_level: str, *, also: Sequence[Row] = ()
) -> dict[str, object]:
    """Every figure in its worst domain, and which one that is.

    Args:
        rows: of every method.
        default_level: of the profile.
        also: of the default level on other windows, which its perplexity counts too.
    """
    default = [row for row in rows if (row.method, row.level) == ("transform", default_level)]
    largest = max(default, key=lambda row: row.bits_per_value)
    farthest = max(default, key=lambda row: row.kl)
    int8 = min(
        (row for row in rows if (row.method, row.level) == ("uniform", "8")),
        key=lambda row: row.bits_per_value,
    )
    answer_kls = [row.answer_kl for row in default if row.answer_kl is not None]
    found: dict[str, object] = {
        "default_level": default_level,
        "default_bits_per_value": largest.bits_per_value,
        "default_bits_domain": largest.domain,
        "default_kl": farthest.kl,
        "default_kl_domain": farthest.domain,
        "default_answer_kl": max(answer_kls, default=None),
        "default_rel_ppl": max(_rel_ppl([*default, *also], row.domain) for row in default),
        "default_top1": min(row.top1 for row in default),
        "int8_bits": int8.bits_per_value,
        "int8_over_default": int8.bits_per_value / largest.bits_per_value,
    }
    for method in ("paper", "plain", "kvtc"):
        bits, ratio, domain = bits_at_default(rows, method, default)
        found[f"{method}_bits_at_default_kl"] = bits
        found[f"{method}_over_default"] = ratio
        found[f"{method}_domain"] = domain
    return found


def _rel_ppl(rows: Sequence[Row], domain: str) -> float:
    """Relative perplexity over all predicted tokens of a domain."""
    own = [row for row in rows if row.domain == domain]
    lost = sum(row.num_tokens * math.log1p(row.rel_ppl) for row in own)
    return math.expm1(lost / sum(row.num_tokens for row in own))
