"""What the paper showed and what held here, section by section, from the numbers of one run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

from cachegen.evaluation.report import numbers
from cachegen.evaluation.report.figures import COMPARED_KL
from cachegen.evaluation.report.links import break_evens, series_name, varied
from cachegen.evaluation.report.points import (
    OURS,
    Better,
    better_than_ours,
    default_rows,
    least_ratio,
    left_out,
    ours,
    point_name,
)
from cachegen.evaluation.results import Result, Ttft
from cachegen.evaluation.sections.cost import REUSES

# An uncompressed model that scores less has too little to lose.
_LEAST_SCORE = 0.2
_MOST_NAMED = 12
_SMALL = 7e9


def quality(result: Result) -> list[str]:
    """Size at equal quality, and every point of another method that is better than ours."""
    found = []
    ratio = least_ratio(result, "paper")
    if ratio is not None:
        found.append(
            f"At the default level's KL the paper's encoder takes at least {numbers.times(ratio)} "
            "the bytes, dataset by dataset."
        )
    if ours(result) not in {row.method for row in result.rows}:
        return [*found, "This package's own method is not in this run, so nothing is compared."]
    better = better_than_ours(result, most_kl=COMPARED_KL)
    clear = [one for one in better if one.is_clear]
    if not better:
        found.append(
            f"No point of another method with a KL of at most {COMPARED_KL:g} is better: for each "
            "there is a level of ours that is no larger, and whose KL is no higher or below the "
            "noise floor."
        )
    for one in clear[:_MOST_NAMED]:
        found.append(
            f"{_name(one)} is clearly better than ours: KL {numbers.kl(one.point.kl)} at "
            f"{numbers.figure(one.point.bits)} bits, {_ours_there(one)}."
        )
    if len(clear) > _MOST_NAMED:
        found.append(f"{len(clear)} points are in all.")
    if close := [one for one in better if not one.is_clear]:
        found.append(
            f"Better than ours, but by less than the interval of their KL: "
            f"{_some([_name(one) for one in close])}."
        )
    if of_kinds := _asked_and_going_on(result):
        found.append(of_kinds)
    if without := left_out(result):
        found.append(
            f"Measured on some datasets only, so not in the picture above: {_some(without)}."
        )
    return found


def _asked_and_going_on(result: Result) -> str:
    """KL of the default level by what is read behind a context; empty without both kinds."""
    rows = default_rows(result)
    asked = [row.kl for row in rows if row.score is not None]
    going_on = [row.kl for row in rows if row.score is None]
    if not asked or not going_on:
        return ""
    texts, questions = (_span([numbers.kl(kl) for kl in sorted(own)]) for own in (going_on, asked))
    return (
        f"The default level costs KL {texts} where a text goes on, which is what profiles are "
        f"measured on, and {questions} where an answer is scored."
    )


def _span(shown: Sequence[str]) -> str:
    """From the first to the last, or the one that they are."""
    return shown[0] if shown[0] == shown[-1] else f"{shown[0]} to {shown[-1]}"


def scores(result: Result) -> list[str]:
    """Which datasets show a loss at the default level."""
    lost, open_, kept = [], [], []
    for row in default_rows(result):
        if row.score is None or row.score_uncompressed is None:
            continue
        change = numbers.points(row.score - row.score_uncompressed)
        text = f"{row.dataset} {change} points (n = {row.n})"
        if row.score_interval is None:
            open_.append(text)
        elif row.score_interval[1] < row.score_uncompressed:
            lost.append(text)
        else:
            kept.append(text)
    parts = (
        ("The default level's interval lies below the uncompressed score on", lost),
        ("The default level's interval holds the uncompressed score, or lies above it, on", kept),
        ("No interval is known on", open_),
    )
    return [f"{start} {', '.join(names)}." for start, names in parts if names]


def ttft(result: Result) -> list[str]:
    """Whether ours was the fastest everywhere, and what load and length do."""
    rows = varied(result, "mbit_s")
    found = []
    beaten = []
    links = sorted({row.mbit_s for series in rows.values() for row in series if row.mbit_s})
    for rate in links:
        here = {name: row for name, line in rows.items() for row in line if row.mbit_s == rate}
        first = min(here.values(), key=lambda row: row.ttft_s_p50)
        if first.method not in OURS:
            beaten.append(f"{series_name(first)} at {numbers.link(rate)}")
    if links:
        found.append(
            f"The paper: below every baseline at every bandwidth. Here: ours had the lowest median "
            f"at {len(links) - len(beaten)} of {len(links)} links"
            f"{'; lower was ' + _some(beaten) if beaten else ''}."
        )
    found += _gains(result, "mbit_s", "the gain shrinks on fast links", numbers.link)
    found += _gains(result, "concurrency", "the gain grows with load", "{} at once".format)
    slower = [f"{one.context_tokens:,}" for one in break_evens(result) if one.behind]
    if slower:
        found.append(
            "The paper: short contexts go back to text. Here prefill was faster over at least one "
            f"link for contexts of {_some(slower)} tokens."
        )
    return found


def _gains(result: Result, by: str, paper: str, show: Callable[..., str]) -> list[str]:
    """How many times as fast as the best other ours is at both ends of a curve."""
    at: dict[float | None, list[Ttft]] = {}
    for line in varied(result, by).values():
        for row in line:
            at.setdefault(getattr(row, by), []).append(row)
    gains = []
    for value, rows in at.items():
        own = [row.ttft_s_p50 for row in rows if row.method in OURS]
        others = [row.ttft_s_p50 for row in rows if row.method not in OURS]
        if own and others:
            gains.append(f"{numbers.times(min(others) / min(own))} at {show(value)}")
    if len(gains) < 2:
        return []
    return [
        f"The paper: {paper}. Here the best other takes, by medians, {gains[0]} and {gains[-1]} "
        "of our time."
    ]


def slo(result: Result) -> list[str]:
    """Deadlines missed over all rows, policy by policy, and what is simulated."""
    if not result.slo:
        return []
    found = [
        "Simulated, with what this run measured: bytes of the stored levels, seconds of prefill "
        "and of decoding. The links are traces and draws whose rate varies at least ten times "
        "while a load goes on, the same for all policies."
    ]
    for policy in dict.fromkeys(row.policy for row in result.slo):
        rows = [row for row in result.slo if row.policy == policy]
        loads = sum(row.n for row in rows)
        missed = sum((1 - row.met) * row.n for row in rows) / loads if loads else 0.0
        kls = [row.mean_kl for row in rows if row.mean_kl is not None]
        quality = f", at a mean KL of {numbers.kl(sum(kls) / len(kls))}" if kls else ""
        found.append(f"{policy} missed {numbers.percent(missed)} of {loads:,} deadlines{quality}.")
    return found


def timeline(result: Result) -> list[str]:
    """How often each choice was made."""
    counts = Counter(one.choice for one in result.timeline)
    if not counts:
        return []
    shown = ", ".join(f"{choice} {count}" for choice, count in counts.items())
    low = min(one.mbit_s for one in result.timeline)
    high = max(one.mbit_s for one in result.timeline)
    return [
        f"{counts.total()} chunks, while the link went from {numbers.link(high)} down to "
        f"{numbers.link(low)}: {shown}."
    ]


def ablation(result: Result) -> list[str]:
    """Whether each part made it smaller, as in the paper."""
    steps = result.ablation
    grew = [
        after.step
        for before, after in pairwise(steps)
        if after.bits_per_value >= before.bits_per_value
    ]
    if not steps:
        return []
    if grew:
        return [f"The paper: each part makes it smaller. Larger than before here: {_some(grew)}."]
    return ["The paper: each part makes it smaller. Here too, at the KL given."]


def breakdown(result: Result) -> list[str]:
    """Decoding and encoding beside prefill."""
    summary = result.summary
    found = []
    if summary.decode_over_prefill is not None:
        found.append(
            f"Decoding the default level takes {numbers.percent(summary.decode_over_prefill)} of "
            "the prefill's time."
        )
    if summary.encode_over_prefill is not None:
        found.append(
            f"Encoding it takes {numbers.percent(summary.encode_over_prefill)}, once for a context."
        )
    return found


def cost(result: Result) -> list[str]:
    """From how many reuses on storing pays."""
    found = [one for one in result.cost if one.unit == REUSES]
    if not found:
        return []
    shown = "; ".join(f"{one.what} {numbers.figure(one.value, 2)}" for one in found)
    return [
        f"The paper, from memory: storing pays above about 150 reuses a month. Here, at assumed "
        f"prices, reuses a month: {shown}."
    ]


def limits(result: Result) -> list[str]:
    """What a run on this model and machine cannot show."""
    model = result.model
    found = []
    if model.parameters < _SMALL:
        found.append(
            f"{model.name} has {_parameters(model.parameters)} parameters, "
            f"{model.layers} layers and {model.kv_heads} heads of keys and values; models "
            "that are served have 7 B and more. Redundancy between heads and layers, outliers, and "
            "how errors add up over depth may differ there: sizes and KL do not carry over, they "
            "have to be measured."
        )
    weak = [
        f"{row.dataset} ({numbers.percent(row.score_uncompressed, 0)})"
        for row in default_rows(result)
        if row.score_uncompressed is not None and row.score_uncompressed < _LEAST_SCORE
    ]
    if weak:
        found.append(
            f"{model.name} hardly solves {', '.join(weak)} even uncompressed: a score that is low "
            "already cannot fall far, so it says little about compression; KL does."
        )
    long = max((row.tokens for row in result.rows), default=0)
    found.append(
        f"Contexts whose quality was measured hold {long:,.0f} tokens on average at the longest; "
        f"the model reads {model.positions:,}."
    )
    found.append(
        f"Times are of {result.machine}. On a fast GPU prefill is far quicker against the same "
        "link, so bandwidths at which loading pays do not carry over."
    )
    if result.quick:
        found.append("This was a short run (--quick): few cases, wide intervals.")
    return found


def _ours_there(one: Better) -> str:
    if one.our_kl is None:
        return "where none of our levels is as small"
    return f"the best of our levels that is no larger {numbers.kl(one.our_kl)}"


def _name(one: Better) -> str:
    return f"{point_name(one.point.method, one.point.level)} on {one.dataset}"


def _parameters(count: int) -> str:
    if count >= 1e9:
        return f"{numbers.figure(count / 1e9, 2)} B"
    return f"{numbers.figure(count / 1e6, 3)} M"


def _some(names: list[str] | tuple[str, ...]) -> str:
    shown = list(dict.fromkeys(names))
    more = len(shown) - _MOST_NAMED
    return ", ".join(shown[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
