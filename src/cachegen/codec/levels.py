"""The rungs of the quality ladder and what was measured on each."""

from __future__ import annotations

from dataclasses import dataclass

TEXT = "text"
LADDER = ("lowest", "low", "medium", "high", "highest")
PACKED = "packed"
LOSSLESS = "lossless"
RAW = "raw"


@dataclass(frozen=True, slots=True)
class Quality:
    """How far continuations of coded contexts stray from those of the original ones.

    Attributes:
        kl: mean Kullback-Leibler divergence to the uncompressed run, nats per token.
        rel_ppl: relative change of perplexity (0.005 is half a percent worse).
        top1: share of tokens whose most likely successor is unchanged.
        num_tokens: tokens measured.
    """

    kl: float
    rel_ppl: float
    top1: float
    num_tokens: int


@dataclass(frozen=True, slots=True)
class EncodingLevel:
    """One rung: a codec and its one dial.

    Attributes:
        name: as users, files and commands say it.
        codec: `plain`, `paper`, `packed`, `lossless` or `raw`.
        step: `plain`: quantisation step in units of a plane's RMS; `paper`: multiplier of its
            bins; the fixed codecs ignore it.
        quality: measured by calibration; None where nothing was measured.
    """

    name: str
    codec: str
    step: float = 0.0
    quality: Quality | None = None


FIXED_LEVELS = (
    EncodingLevel(PACKED, "packed"),
    EncodingLevel(LOSSLESS, "lossless"),
    EncodingLevel(RAW, "raw"),
)
UNCALIBRATED_LADDER = tuple(
    EncodingLevel(name, "plain", step)
    for name, step in zip(LADDER, (1.0, 0.6, 0.35, 0.2, 0.1), strict=True)
)
UNCALIBRATED_DEFAULT = "high"


def find_level(levels: tuple[EncodingLevel, ...], name: str) -> EncodingLevel:
    """The level of this name.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    for level in levels:
        if level.name == name:
            return level
    names = ", ".join(level.name for level in levels)
    raise ValueError(f"expected one of the levels {names}; got {name!r}")
