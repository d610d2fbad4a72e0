"""A lower bound on the time of any load, from full knowledge of the trace."""

from __future__ import annotations

from itertools import accumulate

from cachegen.policy.controller import Option
from cachegen.policy.costs import Costs
from cachegen.simulation.scenario import Chunk, Context
from cachegen.simulation.trace import Trace


def earliest_s(context: Context, costs: Costs, *, trace: Trace, start_s: float = 0.0) -> float:
    """A lower bound in seconds on any load at default quality or better, recomputing included.

    The least, over the number of chunks recomputed from the front, of the longer of two times:
    recomputing those; and one request, the smallest good level of all other chunks, and the
    quickest decoding of one of them. Further requests and waiting for the decoder cost nothing.
    """
    chunks = context.chunks
    good = [_good(chunk, context.default_rank) for chunk in chunks]
    sizes = [min((option.size_bytes for option in options), default=0) for options in good]
    decode = [_quickest_s(c, options, costs) for c, options in zip(chunks, good, strict=True)]
    model_s = [0.0, *accumulate(_recompute_s(chunk, costs) for chunk in chunks)]
    link_start_s = start_s + costs.request_s
    best = model_s[-1]
    for split in range(len(chunks)):
        if not all(good[split:]):
            continue
        moved_s = trace.seconds_for(sum(sizes[split:]), start_s=link_start_s)
        link_s = costs.request_s + moved_s + min(decode[split:])
        best = min(best, max(model_s[split], link_s))
    return best


def _good(chunk: Chunk, default_rank: int) -> list[Option]:
    return [option for option in chunk.options if option.rank >= default_rank]


def _quickest_s(chunk: Chunk, options: list[Option], costs: Costs) -> float:
    num_tokens = chunk.stop - chunk.start
    return min((costs.decode_s(option.level, num_tokens) for option in options), default=0.0)


def _recompute_s(chunk: Chunk, costs: Costs) -> float:
    if costs.prefill is None:
        return float("inf")
    return costs.prefill.seconds(chunk.stop - chunk.start, past=chunk.start)
