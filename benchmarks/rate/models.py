"""The rate-quality study on a model of one's own: `rate_quality.py --model DIR --data DIR`.

Quality is measured in float32 arithmetic: contexts are prefilled in the model's own dtype (in
float32 and rounded to it, where this machine computes that slowly), coded and widened, and the
model continues them in float32. So the figures hold what coding costs and not the noise of 16-bit
arithmetic, which is reported beside them. What is measured on was not learned from: novels of other
authors, the last quarter of the WikiText and of the conversations.

The profile is `--profile`, else `cachegen/profile.safetensors` in the model's folder; where there
is none, it is calibrated first and put there.
"""

from __future__ import annotations

import lzma
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cachegen.cli.models import PROFILE, load_network, load_tokenizer
from cachegen.codec.levels import UNCALIBRATED_DEFAULT
from cachegen.codec.profile import Profile, read_profile
from cachegen.engines.transformers.arithmetic import Prefiller, prefiller
from cachegen.engines.transformers.quality import as_dtype, coded_as, evaluator
from cachegen.engines.transformers.rope import rope_map
from cachegen.engines.transformers.tasks import first_tokens
from cachegen.engines.transformers.text_windows import Window, cut_windows, evenly
from cachegen.evaluation.coder import Coder
from cachegen.evaluation.methods.kvtc import kvtc_coders
from cachegen.evaluation.methods.presets import adaptive_coder, paper_coders, profile_coder
from cachegen.evaluation.methods.uniform import uniform_coders
from cachegen.evaluation.texts import texts_of
from cachegen.evaluation.times.speed import speed
from cachegen.kvcache import KVCache
from rate.curves import begins, reaches, summarise
from rate.hostile import Hostile, hostile
from rate.measure import Row, check, evaluators, measure
from rate.texts import CONTEXT_TOKENS, token_ids
from training.open_models.calibrating import calibrate
from training.open_models.texts import check_data

NOVELS = "corpus/eltec-eng.valid.txt.xz"
_NOVEL_CHARACTERS = 400_000
# At a KL of 0.002 the likelihood of a token changes by 0.06 nats either way, so that perplexity is
# known to 0.002 after 1,000 tokens, as much as it changes: 12 windows predict 3,000 of a domain.
_CONTINUATION_TOKENS = 256
_KVTC_STEPS, _PAPER_STEPS = (0.5, 0.14), (0.05, 0.015)
_COARSER_PAPER_STEPS, _FINER_PAPER_STEPS = (0.155,), (0.005, 0.0015)
_OWN_DTYPE_WINDOWS = 2

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    Attributes:
        windows: of each domain, for every method.
        perplexity_windows: those and others, for what the default level does to perplexity.
        learned_contexts: of which the baselines learn.
        hostile_contexts: of each hostile input.
        timed_runs: of which medians are taken.
    """

    windows: int
    perplexity_windows: int
    learned_contexts: int
    hostile_contexts: int
    timed_runs: int


QUICK = Effort(
    windows=6, perplexity_windows=12, learned_contexts=10, hostile_contexts=1, timed_runs=5
)
FULL = Effort(
    windows=16, perplexity_windows=24, learned_contexts=24, hostile_contexts=3, timed_runs=15
)


def study(
    folder: Path, data: Path | None, profile_path: Path | None, *, quick: bool, say: Say
) -> tuple[list[Row], list[Hostile], dict[str, object]]:
    """Rows of every method and domain, hostile inputs, and the summary.

    Raises:
        ValueError: no data, or a folder that holds no model.
    """
    effort = QUICK if quick else FULL
    check_data(data)
    assert data is not None
    profile = _profile(folder, data, profile_path, say)
    say("model in float32 and text")
    tokenizer, model = load_tokenizer(folder), load_network(folder, dtype="float32")
    writer = load_network(folder)
    prefill = prefiller(writer, model)
    texts = divided(tokenizer, data)
    every = held_out(tokenizer, data, texts, count=effort.perplexity_windows)
    windows = {name: evenly(own, effort.windows) for name, own in every.items()}
    dtype = profile.geometry.dtype
    say("learning the baselines")
    prefix = first_tokens(tokenizer)
    learned = _learned(prefill, texts, prefix, count=effort.learned_contexts)
    coders, coarser, finer = _coders(model, profile, learned)
    context = windows["novels"][0].context
    kv = prefill(context)
    say("checking that every coder gives back what it got")
    for coder in coders:
        check(coder, kv, context)
    say("reference runs")
    judges = evaluators(model, windows, prefill=prefill)
    rows: list[Row] = []

    def add(coder: Coder) -> None:
        found = measure(_widened(coder, dtype), judges)
        rows.extend(found)
        figures = (f"{r.domain} {r.bits_per_value:.3f} bits, KL {r.kl:.5f}" for r in found)
        say(f"{coder.method} {coder.level}: {'; '.join(figures)}")

    for coder in coders:
        add(coder)
    for further, enough in ((coarser, begins), (finer, reaches)):
        for coder in further:
            if enough(rows, "paper", profile.default_level):
                break
            check(coder, kv, context)
            add(coder)
    say("perplexity at the default level")
    also = measure(
        _widened(profile_coder("transform", profile, profile.default_level), dtype),
        evaluators(model, _others(every, windows), prefill=prefill),
    )
    say("hostile inputs")
    wild = hostile(model, tokenizer, profile, contexts=effort.hostile_contexts)
    say("the model's own dtype, and time")
    summary = summarise(rows, profile.default_level, also=also)
    summary |= _own_dtype(writer, prefill, profile, windows, effort)
    return rows, wild, {"model": folder.name, "kl_arithmetic": "float32", **summary}


def divided(tokenizer: Any, data: Path) -> dict[str, Sequence[int]]:
    """Tokens of the texts that calibration reads, by domain; it learns from the first 3/4."""

    def count(text: str) -> int:
        return len(token_ids(tokenizer, text))

    return {name: token_ids(tokenizer, text) for name, text in texts_of(data, count).items()}


def held_out(
    tokenizer: Any, data: Path, texts: Mapping[str, Sequence[int]], *, count: int
) -> dict[str, list[Window]]:
    """Windows of text that calibration has not learned from, by domain."""
    found = held_out_texts(tokenizer, data, texts)
    return {name: windows_of(tokenizer, own, count=count) for name, own in found.items()}


def held_out_texts(
    tokenizer: Any, data: Path, texts: Mapping[str, Sequence[int]]
) -> dict[str, Sequence[int]]:
    """Tokens of text that calibration has not learned from, by domain."""
    quarters = {name: ids[len(ids) * 3 // 4 :] for name, ids in texts.items()}
    with lzma.open(data / NOVELS, "rt", encoding="utf-8") as file:
        novels = file.read()
    stride = len(novels) // 5
    pieces = (novels[at : at + _NOVEL_CHARACTERS // 5] for at in range(0, 5 * stride, stride))
    quarters["novels"] = token_ids(tokenizer, "\n".join(pieces))
    return quarters


def windows_of(
    tokenizer: Any, text: Sequence[int], *, count: int, num_tokens: int = CONTEXT_TOKENS
) -> list[Window]:
    """Contexts of a text, and what follows them: `count`, or as many as the text has.

    Raises:
        ValueError: the text is too short for one.
    """
    prefix, following = first_tokens(tokenizer), _CONTINUATION_TOKENS + 1
    room = (len(text) + len(prefix) - num_tokens) // following
    return cut_windows(
        [text],
        num_tokens=num_tokens,
        continuation_tokens=_CONTINUATION_TOKENS,
        count=min(count, max(room, 1)),
        prefix=prefix,
        overlap=True,
    )


def _others(
    every: Mapping[str, Sequence[Window]], some: Mapping[str, Sequence[Window]]
) -> dict[str, list[Window]]:
    """By domain the windows that are not among some of them, where there are any."""
    found = {name: [one for one in own if one not in some[name]] for name, own in every.items()}
    return {name: own for name, own in found.items() if own}


def _profile(folder: Path, data: Path, given: Path | None, say: Say) -> Profile:
    path = given or folder / PROFILE
    if given is None and not path.exists():
        say(f"no {path}: calibrating, which takes a while")
        calibrate(folder, data, folder)
    return read_profile(path)


def _coders(
    model: Any, profile: Profile, learned: Iterator[KVCache]
) -> tuple[list[Coder], Iterator[Coder], Iterator[Coder]]:
    """Every method at every level; the paper's at coarser and at finer steps, where needed."""
    own = [level.name for level in profile.levels]
    names = own if profile.default_level in own else [*own, profile.default_level]
    caches = list(learned)
    rope = rope_map(model)
    coders = [
        *(profile_coder("transform", profile, name) for name in names),
        *(one for one in uniform_coders(profile.geometry) if one.level == "8"),
        *kvtc_coders(caches, rope, steps=_KVTC_STEPS),
        adaptive_coder(rope, UNCALIBRATED_DEFAULT),
        *paper_coders(caches, steps=_PAPER_STEPS),
    ]
    coarser, finer = _COARSER_PAPER_STEPS, _FINER_PAPER_STEPS
    return coders, paper_coders(caches, steps=coarser), paper_coders(caches, steps=finer)


def _learned(
    prefill: Prefiller, texts: Mapping[str, Sequence[int]], prefix: Sequence[int], *, count: int
) -> Iterator[KVCache]:
    """Caches of text that profiles are learned from too."""
    found = cut_windows(
        [ids[: len(ids) * 3 // 4] for ids in texts.values()],
        num_tokens=CONTEXT_TOKENS,
        continuation_tokens=1,
        count=count,
        prefix=prefix,
    )
    return (prefill(window.context) for window in found)


def _widened(coder: Coder, dtype: torch.dtype) -> Coder:
    """The same for caches of float32, which are rounded before and widened after."""
    return replace(
        coder,
        encode=lambda kv, tokens: coder.encode(as_dtype(kv, dtype), tokens),
        decode=lambda data, tokens: as_dtype(coder.decode(data, tokens), torch.float32),
    )


def _own_dtype(
    model: Any,
    prefill: Prefiller,
    profile: Profile,
    windows: Mapping[str, Sequence[Window]],
    effort: Effort,
) -> dict[str, object]:
    """Speed, and the default level's KL where the model runs in its own dtype."""
    tokens = windows["novels"][0].context
    timed = speed(prefill, profile, prefill(tokens), tokens, runs=effort.timed_runs)
    few = {name: found[:_OWN_DTYPE_WINDOWS] for name, found in windows.items()}
    coder = profile_coder("transform", profile, profile.default_level)
    found = evaluator(model, few, prefill=prefill)(
        coded_as(coder.roundtrip, profile.geometry.dtype)
    )
    return {
        "default_kl_own_dtype": max(quality.kl for quality in found.values()),
        "noise_floor_kl": profile.noise_floor,
        "profile_mb": len(profile.file_bytes) / 1e6,
        **timed,
    }
