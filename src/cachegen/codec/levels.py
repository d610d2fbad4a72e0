"""The rungs of the quality ladder and what was measured on each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# The promise of a default level: KL in nats per token, the share by which perplexity rises, and the
# share of answers that may be lost. These are aims, not measurements.
PROMISED_KL = 0.003
PROMISED_REL_PPL = 0.005
PROMISED_ANSWERS = 0.01
TEXT = "text"
ADAPTIVE = "adaptive"
LADDER = ("lowest", "low", "medium", "high", "highest")
PACKED = "packed"
LOSSLESS = "lossless"
RAW = "raw"
EXACT_LEVELS = (LOSSLESS, RAW)


@dataclass(frozen=True, slots=True)
class Quality:
    """How far continuations of coded contexts stray from those of the original ones.

    Attributes:
        kl: mean Kullback-Leibler divergence to the uncompressed run, nats per token.
        rel_ppl: relative change of perplexity (0.005 is half a percent worse).
        top1: share of tokens whose most likely successor is unchanged.
        num_tokens: tokens measured.
        answer_kl: as `kl`, over the tokens of answers only; None where there were none.
        exact_match: share of greedy answers from coded contexts that are right.
        exact_match_uncompressed: the same from the original contexts.
        num_answers: greedy answers compared.
        bits_per_value: of the files of coded contexts, over their values; None where nobody
            measured.
        rel_ppl_error: standard error of `rel_ppl`, from how windows differ; None where there was
            one window, or nobody measured.
    """

    kl: float
    rel_ppl: float
    top1: float
    num_tokens: int
    answer_kl: float | None = None
    exact_match: float | None = None
    exact_match_uncompressed: float | None = None
    num_answers: int = 0
    bits_per_value: float | None = None
    rel_ppl_error: float | None = None

    @property
    def least_rel_ppl(self) -> float:
        """What the change of perplexity is at least, but for a chance of 2%.

        Text is less predictable than a model's own samples: among windows of 128 tokens it differs
        by several times what a level costs, which KL hardly does.
        """
        return self.rel_ppl - 2.0 * (self.rel_ppl_error or 0.0)


@dataclass(frozen=True, slots=True)
class LongContexts:
    """What a level costs on contexts longer than those that it was placed by.

    Attributes:
        num_tokens: of each context.
        quality: the worst over all domains.
        domains: by the kind of text; fewer than there are, as some have no text so long.
    """

    num_tokens: int
    quality: Quality
    domains: Mapping[str, Quality] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class EncodingLevel:
    """One rung: a codec and its one dial.

    Attributes:
        name: as users, files and commands say it.
        codec: `transform`, `adaptive`, `plain`, `paper`, `packed`, `lossless` or `raw`.
        step: `transform`: quantisation step in the transform's units; `plain` and `adaptive`: in
            units of a plane's RMS; `paper`: multiplier of its bins; the fixed codecs ignore it.
        quality: the worst over all domains, as `worst` takes it; None where nothing was measured.
        domains: measured by calibration, by the kind of text.
        bound: `transform`: the most that a chunk may cost by the transform's own measure, nats
            per token; coded finer, or by another codec, where it would be more.
        long: measured on long contexts; None where nothing was.
    """

    name: str
    codec: str
    step: float = 0.0
    quality: Quality | None = None
    domains: Mapping[str, Quality] = field(default_factory=dict, hash=False)
    bound: float = 0.0
    long: LongContexts | None = None


FIXED_LEVELS = (
    EncodingLevel(PACKED, "packed"),
    EncodingLevel(LOSSLESS, "lossless"),
    EncodingLevel(RAW, "raw"),
)
# FORMAT.md, section 6. docs/decisions/2026-11-29-uncalibrated.md says why 0.3, and what 0.3 and
# 0.15 cost; the coarser steps are arbitrary, each 1.5 to 1.7 times the next.
UNCALIBRATED_LADDER = tuple(
    EncodingLevel(name, "adaptive", step)
    for name, step in zip(LADDER, (1.2, 0.8, 0.5, 0.3, 0.15), strict=True)
)
UNCALIBRATED_DEFAULT = "high"
# Levels that need no profile and are there beside those of one, smallest first.
SELF_CONTAINED = (
    EncodingLevel(ADAPTIVE, "adaptive", UNCALIBRATED_LADDER[3].step),
    *FIXED_LEVELS,
)


def uncalibrated(name: str) -> EncodingLevel:
    """The level without a profile that a profile's level of this name gives way to."""
    named = {level.name: level for level in UNCALIBRATED_LADDER}
    return named.get(name, named[UNCALIBRATED_DEFAULT])


def worst(domains: Mapping[str, Quality]) -> Quality:
    """The worst of every measure over all domains; counts are of all of them together.

    Exact match is that of the domain that lost most answers, in both of its shares. Bits per value
    are known where they are known of every domain. The error of the change of perplexity is such
    that the least it can be is the largest of all domains'.

    Raises:
        ValueError: there are no domains.
    """
    found = list(domains.values())
    if not found:
        raise ValueError("expected the quality of at least one domain, got none")
    answer_kls = [quality.answer_kl for quality in found if quality.answer_kl is not None]
    bits = [quality.bits_per_value for quality in found if quality.bits_per_value is not None]
    answered = min(found, key=_answers_kept)
    rel_ppl = max(quality.rel_ppl for quality in found)
    least = max(quality.least_rel_ppl for quality in found)
    known = all(quality.rel_ppl_error is not None for quality in found)
    return Quality(
        kl=max(quality.kl for quality in found),
        rel_ppl=rel_ppl,
        top1=min(quality.top1 for quality in found),
        num_tokens=sum(quality.num_tokens for quality in found),
        answer_kl=max(answer_kls, default=None),
        exact_match=answered.exact_match,
        exact_match_uncompressed=answered.exact_match_uncompressed,
        num_answers=sum(quality.num_answers for quality in found),
        bits_per_value=max(bits) if len(bits) == len(found) else None,
        rel_ppl_error=(rel_ppl - least) / 2.0 if known else None,
    )


def _answers_kept(quality: Quality) -> float:
    """Exact match less that of the original contexts; domains without answers come last."""
    if quality.exact_match is None or quality.exact_match_uncompressed is None:
        return float("inf")
    return quality.exact_match - quality.exact_match_uncompressed


def find_level(levels: tuple[EncodingLevel, ...], name: str) -> EncodingLevel:
    """The level of this name; where a ladder lacks the rung, that of the next coarser one.

    A rung that would nearly coincide with the one below it is left out of a profile.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    by_name = {level.name: level for level in levels}
    coarser = LADDER[LADDER.index(name) :: -1] if name in LADDER else (name,)
    for other in coarser:
        if other in by_name:
            return by_name[other]
    names = ", ".join(level.name for level in levels)
    raise ValueError(f"expected one of the levels {names}; got {name!r}")
