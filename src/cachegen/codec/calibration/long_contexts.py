"""The default level on contexts longer than those that levels are placed by.

What coding costs may grow with the length: a token attends to more that was coded. So the default
level is measured on long contexts too, and placed finer where it does not keep its promise there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cachegen.codec.calibration.checkpoint import Checkpoint
from cachegen.codec.calibration.placement import PHASE as LEVELS
from cachegen.codec.calibration.placement import Ladder
from cachegen.codec.calibration.progress import Progress, Status
from cachegen.codec.calibration.sample import Evaluate, RoundTrip
from cachegen.codec.calibration.trials import Placed, Trials, measuring
from cachegen.codec.levels import PROMISED_KL, EncodingLevel, LongContexts
from cachegen.kvcache import KVCache

PHASE = "lengths"
# Of the promise, aimed at by a finer step: KL grows with the square of the step or a little less.
# Arbitrary: 0.9 to 0.97 do.
_AIM = 0.94
# Finer steps that are tried. Arbitrary: 2 to 5 do; the first one keeps the promise but for noise.
_TRIALS = 3
# Stands for a KL of 0.
_LEAST_KL = 1e-9


@dataclass(frozen=True, slots=True)
class LongTexts:
    """Long contexts to measure on.

    Attributes:
        num_tokens: of each.
        evaluate: as that of `calibrate`, on these.
    """

    num_tokens: int
    evaluate: Evaluate


def in_chunks(roundtrip: RoundTrip, chunk_tokens: int) -> RoundTrip:
    """A round trip of contexts whose chunks are coded one by one, as they are stored."""

    def whole(kv: KVCache, tokens: Sequence[int]) -> KVCache:
        starts = range(0, kv.num_tokens, chunk_tokens)
        spans = [(start, min(start + chunk_tokens, kv.num_tokens)) for start in starts]
        return KVCache.concat([roundtrip(kv.slice(*span), tokens[slice(*span)]) for span in spans])

    return whole


def held(
    ladder: Ladder,
    default: str,
    *,
    texts: LongTexts | None,
    roundtrip: Callable[[float], RoundTrip],
    evaluate: Evaluate,
    checkpoint: Checkpoint,
    progress: Progress,
) -> Ladder:
    """The levels, the default one as fine as long contexts need it, or a sentence why it is not.

    Perplexity is not judged: of few windows it is known to a few thousandths only.

    Args:
        ladder: the levels as they are placed.
        default: name of the default level, which may be none of them.
        texts: what is measured on; None measures nothing.
        roundtrip: what coding at a step does.
        evaluate: measures the shorter contexts, for a level that is placed anew.
        checkpoint: keeps what was measured.
        progress: told about every trial.
    """
    progress(Status(PHASE))
    index = next((i for i, level in enumerate(ladder.levels) if level.name == default), None)
    if texts is None or index is None:
        return ladder
    level = ladder.levels[index]
    least = max((finer.step for finer in ladder.levels[index + 1 :]), default=0.0)
    trials = Trials(measuring(roundtrip, texts.evaluate), checkpoint, progress, phase=PHASE)
    first = found = trials(level.step, level=default)
    for _ in range(_TRIALS):
        step = found.step * math.sqrt(_AIM * PROMISED_KL / max(found.quality.kl, _LEAST_KL))
        if _keeps(found) or not step > least:
            break
        found = trials(step, level=default)
    if _keeps(found):
        if found is not first:
            shorter = Trials(measuring(roundtrip, evaluate), checkpoint, progress, phase=LEVELS)
            placed = shorter(found.step, level=default)
            level = replace(level, step=placed.step, quality=placed.quality, domains=placed.domains)
        return _with(ladder, replace(level, long=_long(texts, found)))
    sentence = (
        f"level {default}: on contexts of {texts.num_tokens} tokens its KL is "
        f"{first.quality.kl:.4g}, not within {PROMISED_KL:g}, nor is that of the finer steps tried"
    )
    progress(Status(PHASE, message=sentence))
    if first.is_finite:
        ladder = _with(ladder, replace(level, long=_long(texts, first)))
    return replace(ladder, out_of_reach=(*ladder.out_of_reach, sentence))


def _keeps(found: Placed) -> bool:
    return found.is_finite and found.quality.kl <= PROMISED_KL


def _with(ladder: Ladder, changed: EncodingLevel) -> Ladder:
    levels = (changed if own.name == changed.name else own for own in ladder.levels)
    return replace(ladder, levels=tuple(levels))


def _long(texts: LongTexts, found: Placed) -> LongContexts:
    return LongContexts(texts.num_tokens, found.quality, found.domains)
