"""Time of coding the default level against that of prefilling the same tokens."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from cachegen.bitstream.chunk import decode, encode
from cachegen.codec.profile import Profile
from cachegen.evaluation.coder import Tokens
from cachegen.kvcache import KVCache


def speed(
    prefill: Callable[[Tokens], KVCache],
    profile: Profile | None,
    kv: KVCache,
    tokens: Tokens,
    *,
    runs: int,
) -> dict[str, float]:
    """Medians of interleaved runs; prefill, encode and decode get all cores of this process.

    `decode_gb_s_core` are gigabytes of the decoded planes per second of one core.
    """
    threads = len(os.sched_getaffinity(0))
    data = encode(kv, tokens=tokens, profile=profile, threads=threads)
    seconds = interleaved_medians(
        runs,
        {
            "prefill": lambda: prefill(tokens),
            "decode": lambda: decode(data, tokens=tokens, profile=profile, threads=threads),
            "encode": lambda: encode(kv, tokens=tokens, profile=profile, threads=threads),
        },
    )
    with one_core():
        alone = interleaved_medians(
            10 * runs, {"decode": lambda: decode(data, tokens=tokens, profile=profile, threads=1)}
        )
    return {
        "decode_over_prefill": seconds["decode"] / seconds["prefill"],
        "encode_over_prefill": seconds["encode"] / seconds["prefill"],
        "decode_gb_s_core": kv.size_bytes / alone["decode"] / 1e9,
        "prefill_s": seconds["prefill"],
        "decode_s": seconds["decode"],
        "encode_s": seconds["encode"],
        "decode_one_core_s": alone["decode"],
    }


@contextmanager
def one_core() -> Iterator[None]:
    """This process on its first core with one thread of torch; afterwards as before."""
    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    torch.set_num_threads(1)
    os.sched_setaffinity(0, [min(cores)])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)


def interleaved_medians(runs: int, functions: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each function, called in turn after one call to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for run in range(runs + 1):
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            if run:
                seconds[name].append(time.perf_counter() - began)
    return {name: float(np.median(values)) for name, values in seconds.items()}
