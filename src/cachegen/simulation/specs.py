"""Parses traces and policies from the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cachegen.codec.levels import TEXT
from cachegen.policy.algorithm1 import Algorithm1
from cachegen.policy.controller import Controller
from cachegen.policy.fixed import Fixed
from cachegen.policy.min_ttft import MinTTFT
from cachegen.simulation.trace import Trace, constant, random_trace, step
from cachegen.simulation.trace_files import read_traces, shipped_names, shipped_trace

# Of random traces without `@SECONDS`. Arbitrary: any time below a load's makes it vary.
_EVERY_S = 0.1
_TRACE_FORMS = (
    "constant:MBIT, step:SECONDS@MBIT,SECONDS@MBIT..., random:LOW-HIGH[@SECONDS], the name of a "
    "shipped trace, or a file"
)


_RECOMPUTE = "recompute"


@dataclass(frozen=True, slots=True)
class Policy:
    """A way to load.

    Attributes:
        name: as written.
        controller: takes the decisions.
        is_stored: False for `text`: as if nothing were stored.
    """

    name: str
    controller: Controller
    is_stored: bool = True


def parse_policy(text: str) -> Policy:
    """Parse `min_ttft`, `algorithm1`, `fixed:LEVEL` or `recompute` (`text` is the same).

    Raises:
        ValueError: anything else.
    """
    kind, _, level = text.partition(":")
    if kind == "fixed" and level:
        return Policy(text, Fixed(level))
    known: dict[str, Controller] = {"min_ttft": MinTTFT(), "algorithm1": Algorithm1()}
    if text in known:
        return Policy(text, known[text])
    if text in (_RECOMPUTE, TEXT):
        return Policy(text, MinTTFT(), is_stored=False)
    raise ValueError(
        f"expected min_ttft, algorithm1, fixed:LEVEL or recompute as policy; got {text!r}"
    )


def parse_trace(text: str, *, seed: int = 0) -> Trace:
    """Parse a description of a trace; only random ones use the seed.

    Raises:
        ValueError: the description is unknown, or the file is no trace.
    """
    kind, _, rest = text.partition(":")
    try:
        if kind == "constant":
            return constant(float(rest))
        if kind == "step":
            return step([_piece(piece) for piece in rest.split(",")])
        if kind == "random":
            return _random(rest, seed)
    except ValueError as error:
        raise ValueError(f"{text!r} describes no trace ({error}); use {_TRACE_FORMS}") from error
    if text in shipped_names():
        return shipped_trace(text)
    if Path(text).is_file():
        return read_traces(Path(text))[0]
    names = ", ".join(shipped_names())
    raise ValueError(f"{text!r} is no trace; use {_TRACE_FORMS}. Shipped are {names}")


def _piece(text: str) -> tuple[float, float]:
    seconds, _, rate = text.partition("@")
    return float(seconds), float(rate)


def _random(text: str, seed: int) -> Trace:
    rates, _, every = text.partition("@")
    low, _, high = rates.partition("-")
    every_s = float(every) if every else _EVERY_S
    if float(low) > float(high):
        raise ValueError(f"expected LOW up to HIGH, got {rates}")
    return random_trace(seed, low_mbit_s=float(low), high_mbit_s=float(high), every_s=every_s)
