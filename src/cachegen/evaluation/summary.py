"""The figures of the default level, each in its worst dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cachegen.evaluation.curves import bits_at
from cachegen.evaluation.intervals import mean_interval
from cachegen.evaluation.judge import Outcome
from cachegen.evaluation.outcomes import Key
from cachegen.evaluation.results import Row, Summary

# Bits a value of this method and level stand for 8-bit quantisation.
_INT8 = ("uniform", "8")


def summary_of(
    rows: Sequence[Row],
    found: Mapping[Key, Outcome],
    *,
    default: tuple[str, str],
    noise_floor: float | None,
    speed: Mapping[str, float],
    seed: int,
) -> Summary:
    """Of all rows.

    Args:
        rows: of every method.
        found: outcomes of the cases, for what is compared case by case.
        default: method and level of the default level.
        noise_floor: KL by which the model differs from itself; None where nobody measured.
        speed: of the default level, by name as in `evaluation.speed`.
        seed: of the interval.
    """
    own = [row for row in rows if (row.method, row.level) == default]
    changes = [row.rel_ppl for row in own if row.rel_ppl is not None]
    drops = [
        one.score_uncompressed - one.score
        for key, one in found.items()
        if (key.method, key.level) == default
        and one.score is not None
        and one.score_uncompressed is not None
    ]
    interval = mean_interval(drops, seed=seed) if drops else None
    int8 = [row.bits_per_value for row in rows if (row.method, row.level) == _INT8]
    return Summary(
        default_level=default[1],
        noise_floor_kl=noise_floor,
        default_bits_per_value=max((row.bits_per_value for row in own), default=None),
        default_kl=max((row.kl for row in own), default=None),
        default_rel_ppl=max(changes, default=None),
        score_drop=sum(drops) / len(drops) if drops else None,
        score_drop_interval=None if interval is None else (interval.low, interval.high),
        kvtc_bits_at_default_kl=_bits_at_default(rows, "kvtc", own),
        kvserve_bits_at_default_kl=_bits_at_default(rows, "kvserve", own),
        paper_bits_at_default_kl=_bits_at_default(rows, "paper", own),
        int8_bits=min(int8, default=None),
        decode_over_prefill=speed.get("decode_over_prefill"),
        encode_over_prefill=speed.get("encode_over_prefill"),
    )


def _bits_at_default(rows: Sequence[Row], method: str, default: Sequence[Row]) -> float | None:
    """What a method needs at the default level's KL, in the dataset where we win least.

    None where its curve spans that KL in no dataset.
    """
    needed = []
    for own in default:
        curve = [r for r in rows if (r.method, r.dataset) == (method, own.dataset)]
        bits = bits_at([(row.bits_per_value, row.kl) for row in curve], own.kl)
        if bits is not None:
            needed.append((bits / own.bits_per_value, bits))
    return min(needed)[1] if needed else None
