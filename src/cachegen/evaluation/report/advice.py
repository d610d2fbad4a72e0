"""The paragraph at the top: what one run found, as somebody who serves a model would use it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cachegen.codec.levels import PROMISED_KL
from cachegen.evaluation.report import numbers
from cachegen.evaluation.report.links import BreakEven, break_evens
from cachegen.evaluation.report.points import FULL_BITS, default_rows, least_ratio
from cachegen.evaluation.results import Interval, Result

# Other methods closer than this in size are called about as large: intervals of bits are some
# percent. Ratios are of the dataset where ours wins least.
_ABOUT_EQUAL = 0.05
# Fewer do not tell what a coder costs: of 30 right answers none lost leaves a loss of 10% possible
# (the rule of three).
_FEW_QUESTIONS = 30


@dataclass(frozen=True, slots=True)
class Drop:
    """What scores lost: uncompressed less default level, over all datasets that ask.

    Attributes:
        value: 0 to 1.
        span: 95% interval; None where there is none.
        n: questions.
        is_paired: whether the interval is of differences case by case.
    """

    value: float
    span: Interval | None
    n: int
    is_paired: bool


def score_drop(result: Result) -> Drop | None:
    """The loss with an interval; the rows' intervals make a wider one where no other is there."""
    rows = [
        (row.score, row.score_uncompressed, row)
        for row in default_rows(result)
        if row.score is not None and row.score_uncompressed is not None
    ]
    n = sum(row.n for _, _, row in rows)
    own = result.summary.score_drop
    if own is not None and result.summary.score_drop_interval:
        return Drop(own, result.summary.score_drop_interval, n, True)
    if not rows:
        return None if own is None else Drop(own, None, n, False)
    value = sum(whole - score for score, whole, _ in rows) / len(rows)
    spans = [
        (whole - r.score_interval[1], whole - r.score_interval[0])
        for _, whole, r in rows
        if r.score_interval
    ]
    if len(spans) < len(rows):
        return Drop(value if own is None else own, None, n, False)
    span = tuple(sum(ends) / len(spans) for ends in zip(*spans, strict=True))
    return Drop(value if own is None else own, (span[0], span[1]), n, False)


def advice(result: Result) -> tuple[str, ...]:
    """Sentences, each of which stands on numbers of this run."""
    found = [_size_and_quality(result), _scores(result), _others(result), _speed(result)]
    found += [_loading(result), _what_to_do(result)]
    return tuple(one for one in found if one)


def _size_and_quality(result: Result) -> str:
    summary = result.summary
    bits = summary.default_bits_per_value
    if bits is None or summary.default_kl is None:
        return f"The default level, {summary.default_level}, was not measured."
    text = (
        f"The default level, {summary.default_level}, stores a cache in {numbers.figure(bits)} "
        f"bits per value, {numbers.times(FULL_BITS / bits)} smaller than 16 bits, at a KL of "
        f"{numbers.kl(summary.default_kl)} nats per token, each in its worst dataset"
    )
    least = min((row.bits_per_value for row in default_rows(result)), default=bits)
    if least < bits:
        text += f" (in its best {numbers.figure(least)} bits)"
    if summary.noise_floor_kl is not None:
        text += f"; without any coding KL is {numbers.kl(summary.noise_floor_kl)}"
    if summary.default_kl > PROMISED_KL:
        text += f"; that KL is above the promise of {PROMISED_KL:g}"
    if summary.default_rel_ppl is not None:
        text += f"; perplexity changes by {numbers.change(summary.default_rel_ppl)} at worst"
    return text + "."


def _scores(result: Result) -> str:
    drop = score_drop(result)
    if drop is None:
        return "No dataset of this run asks questions, so nothing is known of answers."
    asked = f"over {drop.n:,} questions"
    if not drop.value:
        return f"Scores did not change {asked}."
    lost = f"{numbers.figure(100 * abs(drop.value))} points of 100"
    way = "fell" if drop.value > 0 else "rose"
    if drop.span is None:
        return f"Scores {way} by {lost} {asked}; no interval is known, so do not rely on it."
    low, high = drop.span
    span = f"95% interval of the loss {numbers.points(low)} to {numbers.points(high)}"
    if drop.n < _FEW_QUESTIONS:
        span += ", of too few to tell much"
    if not drop.is_paired:
        span += ", wider than of pairs"
    if low > 0:
        return f"Scores fell by {lost} {asked} ({span}): a loss that this run can tell from chance."
    if high <= 0:
        return f"Scores rose by {lost} {asked} ({span}): no loss was seen."
    return (
        f"Scores {way} by {lost} {asked} ({span}): the interval holds 0, so this run shows no "
        f"loss, and cannot rule out one of up to {numbers.figure(100 * high, 2)} points."
    )


def _others(result: Result) -> str:
    summary = result.summary
    bits = summary.default_bits_per_value
    if bits is None:
        return ""
    found = []
    for name, method in (
        ("a coder in the style of KVTC", "kvtc"),
        ("one in the style of KVServe", "kvserve"),
        ("the paper's encoder", "paper"),
    ):
        ratio = least_ratio(result, method)
        if ratio is not None:
            found.append(f"{name} takes {_compared(ratio)}")
    text = f"For the same KL {_listed(found)}." if found else ""
    if summary.int8_bits is not None:
        text += f" 8-bit quantisation takes {_compared(summary.int8_bits / bits)}."
    return text.strip()


def _compared(ratio: float) -> str:
    if ratio < 1 - _ABOUT_EQUAL:
        return f"fewer bytes ({numbers.figure(ratio, 2)} of ours)"
    if ratio < 1 + _ABOUT_EQUAL:
        return "about as many bytes"
    return f"at least {numbers.times(ratio)} the bytes"


def _speed(result: Result) -> str:
    parts = [
        f"{verb} took {numbers.percent(share)} of the prefill's time"
        for verb, share in (
            ("decoding", result.summary.decode_over_prefill),
            ("encoding", result.summary.encode_over_prefill),
        )
        if share is not None
    ]
    return f"{_listed(parts).capitalize()} on {result.machine}." if parts else ""


def _loading(result: Result) -> str:
    """Of the setting with most links; of others where prefill was faster."""
    found = break_evens(result)
    if not found:
        return ""
    widest = max(found, key=lambda one: (one.links, -one.concurrency, one.context_tokens))
    text = _break_even_sentence(widest)
    slower = [one for one in found if one.behind and one is not widest]
    if slower:
        text += f" Prefill was faster with {'; '.join(_setting(one) for one in slower)}."
    return text


def _setting(one: BreakEven) -> str:
    return f"{one.context_tokens:,} tokens and {_requests(one.concurrency)} {_rates(one.behind)}"


def _break_even_sentence(one: BreakEven) -> str:
    where = f"With {one.context_tokens:,} tokens and {_requests(one.concurrency)}"
    if not one.ahead:
        links = "the one link" if one.links == 1 else f"any of {one.links} links"
        return f"{where}, loading was not clearly faster than prefill at {links}."
    found = [f"beat prefill {_rates(one.ahead)}"]
    if one.close:
        found.append(f"was about as fast {_rates(one.close)}")
    if one.behind:
        found.append(f"was slower {_rates(one.behind)}")
    return f"{where}, loading at level {one.level} {_listed(found)}."


def _requests(count: int) -> str:
    return "one request at a time" if count == 1 else f"{count} requests at once"


def _rates(rates: Sequence[float]) -> str:
    shown = ["without a limit" if math.isinf(one) else numbers.link(one) for one in rates]
    if len(shown) == 1:
        return f"at {shown[0]}" if not math.isinf(rates[0]) else shown[0]
    return (
        f"at all {len(shown)} links from {shown[0]} to {shown[-1]}"
        if len(shown) > 2
        else (f"at {shown[0]} and {shown[1]}")
    )


def _what_to_do(result: Result) -> str:
    summary, drop = result.summary, score_drop(result)
    keeps = summary.default_kl is not None and summary.default_kl <= PROMISED_KL
    shown_loss = bool(drop and drop.span and drop.span[0] > 0)
    if not keeps or shown_loss:
        return (
            "Before you use it, take a finer level and look at the scores of your task below: "
            "the default level lost something here."
        )
    start = f"Start with level {summary.default_level}"
    found = break_evens(result)
    if not found:
        return f"{start}, and measure your link: this run has none."
    if any(one.behind for one in found):
        return f"{start}, and let the loader recompute where prefill was faster."
    if any(one.close for one in found):
        return f"{start}; where the two are about as fast, loading still saves the computing."
    return f"{start}: at no measured link was prefill faster."


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)
