"""The links and contexts of `slo.py`: real and random traces, a small real and a large model."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from cachegen import refmodel
from cachegen.bitstream.chunk import encode
from cachegen.cli.models import load_model
from cachegen.codec.levels import LADDER, LOSSLESS
from cachegen.codec.profile import Profile, read_profile
from cachegen.engines.transformers.cache import capture
from cachegen.policy.controller import Option
from cachegen.policy.costs import Costs, DecodeCost, PrefillCost
from cachegen.simulation.geometries import LEVEL_ORDER, MEASURED_BITS, context_of, find_model
from cachegen.simulation.hardware import costs_of, find_gpu
from cachegen.simulation.oracle import earliest_s
from cachegen.simulation.scenario import Chunk, Context
from cachegen.simulation.trace import Trace, constant, random_trace, step
from cachegen.simulation.trace_files import read_folder, shipped_names, shipped_trace

LEVELS = (*LADDER, LOSSLESS)
DEFAULT_LEVEL = "high"
CHUNK_TOKENS = 1024
VARIATION = 10.0
PIECES_PER_LOAD = (4.0, 64.0)
RATES = (0.5, 20.0)
MISTAKE = (0.8, 1.2)
_PIECES = 400
_TRIES = 400


@dataclass(frozen=True, slots=True)
class Machine:
    """A context and what it costs on the machine that loads it.

    Attributes:
        name: for people.
        context: what is loaded.
        costs: of decoding and recomputing.
    """

    name: str
    context: Context
    costs: Costs

    @property
    def break_even_mbit_s(self) -> float:
        """Where fetching everything at the default level takes as long as recomputing it."""
        chunks, rank = self.context.chunks, self.context.default_rank
        sizes = (option.size_bytes for c in chunks for option in c.options if option.rank == rank)
        text = earliest_s(self.context.without_options(), self.costs, trace=constant(1.0))
        return sum(sizes) * 8e-6 / text


@dataclass(frozen=True, slots=True)
class Case:
    """A link at a moment.

    Attributes:
        family: what kind of trace it is.
        trace: the link.
        start_s: when the load begins.
        oracle_s: what the load takes at least.
        believed: what the controller takes decoding and recomputing for.
    """

    family: str
    trace: Trace
    start_s: float
    oracle_s: float
    believed: Costs


def large_model() -> Machine:
    """Llama-3.1-8B with 16 K tokens on an A100; bits per value as the reference model's."""
    model = find_model("Llama-3.1-8B")
    bits = {level: MEASURED_BITS[level] for level in LEVELS}
    context = context_of(model, num_tokens=16384, bits=bits, default_level=DEFAULT_LEVEL)
    costs = costs_of(model, find_gpu("A100-80G"))
    return Machine(f"{model.name}, 16384 tokens", context, costs)


def reference_model(profile: Profile, *, num_tokens: int) -> Machine:
    """The shipped model's real chunks; seconds once measured on two cores, so as to repeat."""
    model, tokenizer = load_model(refmodel.weights_path())
    text = refmodel.load_text("eval-python")[: 8 * num_tokens]
    tokens = tokenizer(text, verbose=False).input_ids[:num_tokens]
    with torch.inference_mode():
        kv = capture(model, tokens)
    chunks = []
    for start in range(0, len(tokens), CHUNK_TOKENS):
        stop = min(start + CHUNK_TOKENS, len(tokens))
        part = kv.slice(start, stop)
        sizes = {
            level: len(encode(part, tokens=tokens[start:stop], profile=profile, level=level))
            for level in LEVELS
        }
        options = (Option(n, size, LEVEL_ORDER.index(n)) for n, size in sizes.items())
        chunks.append(Chunk(start, stop, tuple(options)))
    costs = Costs(
        PrefillCost(0.02, 3e-4, 5e-8), {level: DecodeCost(5e-4, 3e-6) for level in LEVELS}, 0.001
    )
    context = Context(tuple(chunks), LEVEL_ORDER.index(DEFAULT_LEVEL))
    return Machine(f"reference model, {len(tokens)} tokens", context, costs)


def shipped_profile() -> Profile:
    """The reference model's levels, with their measured quality."""
    return read_profile(refmodel.profile_path())


def families(data: Path | None) -> dict[str, Callable[[random.Random], Trace]]:
    """A trace of each kind, drawn; its mean and its pace are set later."""
    real: dict[str, list[Trace]] = {}
    for name in shipped_names():
        real.setdefault(name.split("-")[0], []).append(shipped_trace(name))
    if data is not None:
        real["own"] = read_folder(data)
    drawn: dict[str, Callable[[random.Random], Trace]] = {
        name: lambda draw, traces=traces: draw.choice(traces) for name, traces in real.items()
    }
    return {**drawn, "random": _uniform, "steps": _steps}


def draw_case(
    family: str,
    make: Callable[[random.Random], Trace],
    machine: Machine,
    draw: random.Random,
) -> Case:
    """A link whose rate varies by at least ten times while the load goes on.

    The trace gets a mean of 0.5 to 20 times the rate at which fetching everything takes as long
    as recomputing it, and a pace at which 4 to 64 of its pieces pass during the load.

    Raises:
        ValueError: a family whose traces hardly ever vary so much.
    """
    for _ in range(_TRIES):
        trace = make(draw).scaled(machine.break_even_mbit_s * _between(*RATES, draw))
        steady = Trace(trace.name, (1.0,), (trace.mean_bytes_per_s,))
        expected_s = earliest_s(machine.context, machine.costs, trace=steady)
        piece_s = sorted(trace.durations_s)[len(trace.durations_s) // 2]
        trace = trace.sped_up(piece_s * _between(*PIECES_PER_LOAD, draw) / expected_s)
        start_s = draw.uniform(0.0, trace.period_s)
        oracle_s = earliest_s(machine.context, machine.costs, trace=trace, start_s=start_s)
        if _variation(trace, start_s, start_s + oracle_s) >= VARIATION:
            return Case(family, trace, start_s, oracle_s, _mistaken(machine.costs, draw))
    raise ValueError(f"{family}: found no load during which the link varies {VARIATION:g} times")


def _mistaken(costs: Costs, draw: random.Random) -> Costs:
    """Estimates of the costs, wrong by up to a fifth."""
    prefill, wrong = costs.prefill, draw.uniform(*MISTAKE)
    assert prefill is not None
    return Costs(
        PrefillCost(prefill.a_s * wrong, prefill.b_s * wrong, prefill.c_s * wrong),
        {
            level: DecodeCost(cost.a_s * wrong, cost.b_s * wrong)
            for level, cost in costs.decode.items()
        },
        costs.request_s * wrong,
    )


def _between(low: float, high: float, draw: random.Random) -> float:
    return math.exp(draw.uniform(math.log(low), math.log(high)))


def _variation(trace: Trace, start_s: float, stop_s: float) -> float:
    rates = []
    for ends_s, rate in trace.pieces(start_s):
        rates.append(rate)
        if start_s + ends_s >= stop_s:
            break
    return max(rates) / min(rates) if min(rates) else math.inf


def _uniform(draw: random.Random) -> Trace:
    """As in the paper: anything from 0.1 to 10, drawn again for every piece."""
    return random_trace(draw.randrange(2**32), low_mbit_s=0.1, high_mbit_s=10.0, every_s=1.0)


def _steps(draw: random.Random) -> Trace:
    """A fast and a ten times slower rate in turns, each for one to eight pieces' time."""
    pieces = [(draw.uniform(1.0, 8.0), (1.0, 10.0)[i % 2]) for i in range(_PIECES)]
    return step([(seconds / 4.0, rate) for seconds, rate in pieces], name="steps")
