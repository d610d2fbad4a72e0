"""All methods, by name, and what makes their coders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cachegen.codec.levels import UNCALIBRATED_DEFAULT, UNCALIBRATED_LADDER
from cachegen.codec.profile import Profile
from cachegen.codec.rope import RopeMap
from cachegen.engines.transformers.cache import capture
from cachegen.engines.transformers.quality import as_dtype
from cachegen.errors import CacheGenError
from cachegen.evaluation.coder import Coder, Tokens
from cachegen.evaluation.methods import (
    dropping,
    exact,
    kivi,
    kvserve,
    kvtc,
    presets,
    prompts,
    uniform,
    zeroed,
)
from cachegen.kvcache import Geometry, KVCache

PROFILE, TEXTS, MODEL = "profile", "texts", "model"
OURS = "cachegen"
# Around the quality of a default level on real models (benchmarks/results/model_quality.csv): on
# SmolLM2 and Qwen2.5-Coder-0.5B KVTC's at steps 0.5 and 0.14 has it between them; the paper's does
# at 0.05 and 0.015 on the first, at 0.015 and 0.005 on the second.
_KVTC_STEPS = (2.1, 1.45, 1.0, 0.7, 0.5, 0.3, 0.2, 0.14)
_FEW_KVTC_STEPS = (0.5, 0.14)
PAPER_STEPS = (1.1, 0.75, 0.5, 0.23, 0.105, 0.05, 0.028, 0.015, 0.005)
_FEW_PAPER_STEPS = (0.05, 0.015)
_FEW_KVSERVE_LEVELS = (64, 16)
_FEW_ADAPTIVE_LEVELS = ("medium", UNCALIBRATED_DEFAULT, "highest")
_FEW_UNIFORM_BITS = ("8", "4")
_FEW_SHARES = (0.5,)
# Of which KVServe's tables and classes are learned: in one context a plane and class have 100,000
# values and more, of at most 128 kinds.
_KVSERVE_TEXTS = 2


class MethodFailed(CacheGenError):
    """A method could not make its coders; its name and the cause are in the message."""


@dataclass(frozen=True, eq=False)
class MethodContext:
    """What methods are made from.

    Attributes:
        model: a transformers model, which computed the caches, perhaps in another dtype.
        geometry: of the caches.
        rope: the rotations of their keys.
        texts: token ids of calibration texts to learn from, each a context; none of these may be
            measured on.
        profile: this package's, of the model; None where there is none.
    """

    model: Any
    geometry: Geometry
    rope: RopeMap
    texts: Sequence[Tokens] = ()
    profile: Profile | None = None

    def learned(self) -> Sequence[KVCache]:
        """Caches of the texts; computed when they are first needed, and once."""
        return self._learned

    @cached_property
    def _learned(self) -> Sequence[KVCache]:
        if not self.texts:
            raise ValueError("expected calibration texts to learn from, got none")
        return [as_dtype(capture(self.model, ids), self.geometry.dtype) for ids in self.texts]

    @cached_property
    def h2o_scores(self) -> dropping.Scores:
        """Shared by what drops by H2O."""
        return dropping.h2o_scores(self.model)

    @cached_property
    def snapkv_scores(self) -> dropping.Scores:
        """Shared by what drops by SnapKV."""
        return dropping.snapkv_scores(self.model)

    @cached_property
    def surprises(self) -> prompts.Surprises:
        """Shared by what drops parts of a prompt."""
        return prompts.surprises_of(self.model)


@dataclass(frozen=True, slots=True)
class Method:
    """A curve.

    Attributes:
        description: in a line.
        source: the publication; empty for what is this package's or everybody's.
        needs: of a context's profile, texts and model.
        coders: its points, or fewer of them.
    """

    description: str
    source: str
    needs: tuple[str, ...]
    coders: Callable[[MethodContext, bool], Iterable[Coder]]


def make(names: Sequence[str], context: MethodContext, *, quick: bool = False) -> Iterator[Coder]:
    """The coders of these methods, one after the other, each made when it is asked for.

    Nothing comes after a failure: who wants the other methods all the same asks for one at a time.

    Args:
        names: of `METHODS`.
        context: what they are made from.
        quick: fewer points of each curve; all levels of this package's.

    Raises:
        ValueError: there is no such method.
        MethodFailed: a method cannot be made; which and why, its message says.
    """
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise ValueError(f"expected methods among {', '.join(METHODS)}; got {', '.join(unknown)}")
    return _made(names, context, quick)


def _made(names: Sequence[str], context: MethodContext, quick: bool) -> Iterator[Coder]:
    for name in names:
        try:
            yield from METHODS[name].coders(context, quick)
        except Exception as exc:
            raise MethodFailed(f"method {name}: {exc}") from exc


def _uniform(context: MethodContext, quick: bool) -> Iterable[Coder]:
    every = uniform.uniform_coders(context.geometry)
    return [coder for coder in every if not quick or coder.level in _FEW_UNIFORM_BITS]


def _kvtc(context: MethodContext, quick: bool) -> Iterable[Coder]:
    steps = _FEW_KVTC_STEPS if quick else _KVTC_STEPS
    return kvtc.kvtc_coders(context.learned(), context.rope, steps=steps)


def _paper(context: MethodContext, quick: bool) -> Iterable[Coder]:
    steps = _FEW_PAPER_STEPS if quick else PAPER_STEPS
    return presets.paper_coders(context.learned(), steps=steps)


def _kvserve(context: MethodContext, quick: bool) -> Iterable[Coder]:
    samples = context.learned()[:_KVSERVE_TEXTS]
    scores = kvserve.looking_back(context.model, context.texts[:_KVSERVE_TEXTS])
    levels = _FEW_KVSERVE_LEVELS if quick else kvserve.LEVELS
    return kvserve.kvserve_coders(samples, scores, levels=levels)


def _dropping(name: str, *, ours: bool) -> Callable[[MethodContext, bool], Iterable[Coder]]:
    def coders(context: MethodContext, quick: bool) -> Iterable[Coder]:
        shares = _FEW_SHARES if quick else dropping.SHARES
        if name == "h2o":
            scores = context.h2o_scores
            return dropping.h2o_coders(scores, context.geometry, shares=shares, ours=ours)
        scores = context.snapkv_scores
        return dropping.snapkv_coders(scores, context.geometry, shares=shares, ours=ours)

    return coders


def _llmlingua(*, ours: bool) -> Callable[[MethodContext, bool], Iterable[Coder]]:
    def coders(context: MethodContext, quick: bool) -> Iterable[Coder]:
        return prompts.llmlingua_coders(
            context.model,
            context.geometry,
            context.surprises,
            shares=_FEW_SHARES if quick else prompts.SHARES,
            inner=_default(context) if ours else None,
        )

    return coders


def _cachegen(context: MethodContext, quick: bool) -> Iterable[Coder]:
    del quick
    if context.profile is None:
        raise ValueError("expected a profile of the model; `cachegen calibrate` makes one")
    names = [level.name for level in context.profile.levels]
    default = context.profile.default_level
    every = names if default in names else [*names, default]
    return [presets.profile_coder(OURS, context.profile, name) for name in every]


def _adaptive(context: MethodContext, quick: bool) -> Iterable[Coder]:
    names = [level.name for level in UNCALIBRATED_LADDER]
    chosen = _FEW_ADAPTIVE_LEVELS if quick else names
    return [presets.adaptive_coder(context.rope, name) for name in chosen]


def _zstd(context: MethodContext, quick: bool) -> Iterable[Coder]:
    every = exact.zstd_coders(context.geometry)
    return every[:1] if quick else every


def _broken(context: MethodContext, quick: bool) -> Iterable[Coder]:
    del quick
    return [zeroed.broken_coder(_default(context))]


def _default(context: MethodContext) -> Coder:
    """This package's default level; that without a profile where there is none."""
    profile = context.profile
    if profile is None:
        return presets.adaptive_coder(context.rope, UNCALIBRATED_DEFAULT)
    return presets.profile_coder(OURS, profile, profile.default_level)


METHODS: Mapping[str, Method] = {
    OURS: Method("this package's levels of a calibrated profile", "", (PROFILE,), _cachegen),
    "adaptive": Method("this package's levels that need no profile", "", (), _adaptive),
    "raw": Method(
        "the cache's own 16 bits", "", (), lambda context, _: [exact.raw_coder(context.geometry)]
    ),
    "zstd": Method(
        "bytes or bits shuffled, then zstd; lossless",
        "arXiv 1503.00638 (bitshuffle)",
        (),
        _zstd,
    ),
    "lossless": Method(
        "this package's lossless level", "", (), lambda context, _: [exact.lossless_coder()]
    ),
    "uniform": Method(
        "each head's vector of a token on a grid of 3 to 8 bits",
        "the baseline of CacheGen, arXiv 2310.07240",
        (),
        _uniform,
    ),
    "kivi": Method(
        "2 and 4 bits, keys by channel, values by token",
        "KIVI, arXiv 2402.02750",
        (),
        lambda context, _: kivi.kivi_coders(context.geometry),
    ),
    "paper": Method(
        "anchors and deltas, a table for every channel",
        "CacheGen, arXiv 2310.07240",
        (TEXTS, MODEL),
        _paper,
    ),
    "kvtc": Method(
        "one PCA of keys, one of values, DEFLATE", "KVTC, arXiv 2511.01815", (TEXTS, MODEL), _kvtc
    ),
    "kvserve": Method(
        "Hadamard rotation, levels mixed by head, ANS",
        "KVServe, arXiv 2605.13734",
        (TEXTS, MODEL),
        _kvserve,
    ),
    "h2o": Method(
        "tokens dropped by all attention they get",
        "H2O, arXiv 2306.14048",
        (MODEL,),
        _dropping("h2o", ours=False),
    ),
    "snapkv": Method(
        "tokens dropped by the attention of the last ones",
        "SnapKV, arXiv 2404.14469",
        (MODEL,),
        _dropping("snapkv", ours=False),
    ),
    "h2o+ours": Method(
        "what H2O keeps, coded by this package",
        "H2O, arXiv 2306.14048",
        (MODEL,),
        _dropping("h2o", ours=True),
    ),
    "snapkv+ours": Method(
        "what SnapKV keeps, coded by this package",
        "SnapKV, arXiv 2404.14469",
        (MODEL,),
        _dropping("snapkv", ours=True),
    ),
    "text": Method(
        "token ids, computed again",
        "",
        (MODEL,),
        lambda context, _: [prompts.text_coder(context.model, context.geometry)],
    ),
    "llmlingua": Method(
        "ids of the tokens that the model expects least",
        "LLMLingua, arXiv 2310.05736",
        (MODEL,),
        _llmlingua(ours=False),
    ),
    "llmlingua+ours": Method(
        "the cache of the text that LLMLingua leaves, coded by this package",
        "LLMLingua, arXiv 2310.05736",
        (MODEL,),
        _llmlingua(ours=True),
    ),
    "broken": Method(
        "the default level with the values of one layer lost; tries the measures", "", (), _broken
    ),
}
