"""The parity gate, and all figures of one set of symbols."""

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import constriction
import numpy as np
import zstandard

from cachegen import kernels
from cachegen.kernels import cpu, reference
from kernels.data import DataSet
from kernels.machine import two_cores_over_one

CONSTRICTION_SYMBOLS = 50_000
GATE_ROWS = 40
CALLS_A_BURST = 10
Results = dict[str, Any]


def check_parity(data: DataSet) -> None:
    """Exit unless all kernel sets code the data's first rows alike, and decode them."""
    data = data.first_rows(GATE_ROWS)
    expected = encode(data, reference.encode)
    for isa in cpu.supported_isas():
        coded = encode(data, cpu.encode, isa=isa)
        decoded = decode(data, coded, cpu.decode, isa=isa)
        same_bytes = coded.words.tobytes() == expected.words.tobytes()
        if not same_bytes or not np.array_equal(decoded, data.symbols):
            sys.exit(f"{isa} does not match the reference on {data.name}; nothing was measured")


def encode(data: DataSet, function: Callable[..., Any], **extra: Any) -> kernels.CodedBlock:
    return function(data.symbols, data.coding, **extra)


def decode(
    data: DataSet, coded: kernels.CodedBlock, function: Callable[..., Any], **extra: Any
) -> np.ndarray:
    return function(coded, data.coding, num_rows=len(data.symbols), **extra)


def measure(data: DataSet, runs: int) -> Results:
    """All figures of one data set."""
    coded = encode(data, kernels.encode)
    by_row = [zstandard.compress(one.tobytes(), 3) for one in data.contexts()]
    by_column = [zstandard.compress(one.T.tobytes(), 3) for one in data.contexts()]
    num_sample, decode_sample = constriction_decoder(data)
    with_cores(1)
    seconds = interleaved_medians(
        runs,
        {
            "decode": lambda: decode(data, coded, kernels.decode),
            "zstd": lambda: [zstandard.decompress(one) for one in by_row],
            "zstd_columns": lambda: [zstandard.decompress(one) for one in by_column],
            "encode": lambda: encode(data, kernels.encode),
            "constriction": decode_sample,
        },
    )
    num_bytes = coded.words.nbytes + coded.sizes.nbytes
    num_symbols = data.symbols.size
    return {
        "kernel": kernels.active_set(),
        "decode_msymbols_s": num_symbols / seconds["decode"] / 1e6,
        "encode_msymbols_s": num_symbols / seconds["encode"] / 1e6,
        "zstd_decode_msymbols_s": num_symbols / seconds["zstd"] / 1e6,
        "zstd_bytes_over_ours": sum(map(len, by_row)) / num_bytes,
        "constriction_decode_msymbols_s": num_sample / seconds["constriction"] / 1e6,
        "bytes_over_entropy": num_bytes / data.entropy_bytes,
        "speedup_2_threads": speedup_of_two_threads(data, coded, runs // 2),
        "two_cores_over_one": two_cores_over_one() if with_cores(2) == 2 else None,
        "zstd_columns_decode_msymbols_s": num_symbols / seconds["zstd_columns"] / 1e6,
        "zstd_columns_bytes_over_ours": sum(map(len, by_column)) / num_bytes,
        "decode_over_zstd": seconds["zstd"] / seconds["decode"],
        "encode_over_decode": seconds["decode"] / seconds["encode"],
        "rows": data.symbols.shape[0],
        "columns": data.symbols.shape[1],
        "tables": len(np.unique(data.coding.table_ids)),
        "bits_per_symbol": 8 * num_bytes / num_symbols,
    }


def speedup_of_two_threads(data: DataSet, coded: kernels.CodedBlock, runs: int) -> float | None:
    """How much faster two threads decode than one; None where there is only one core.

    A run is a burst of calls, since a core that has just been idle takes its time to wake up; the
    median is that of the ratios of neighbouring runs, which a drift of the machine spares.
    """
    if with_cores(2) < 2:
        return None
    ratios = []
    for _ in range(runs + 1):
        one, two = (_burst_s(data, coded, threads=threads) for threads in (1, 2))
        ratios.append(one / two)
    return float(np.median(ratios[1:]))


def _burst_s(data: DataSet, coded: kernels.CodedBlock, *, threads: int) -> float:
    start = time.perf_counter()
    for _ in range(CALLS_A_BURST):
        decode(data, coded, kernels.decode, threads=threads)
    return time.perf_counter() - start


def with_cores(wanted: int) -> int:
    """Bind this thread, and those it will start, to so many cores; how many there are."""
    cores = sorted(ALL_CORES)[:wanted]
    os.sched_setaffinity(0, cores)
    return len(cores)


ALL_CORES = os.sched_getaffinity(0)


def interleaved_medians(runs: int, functions: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median seconds of each function, called in turn after one call to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(runs):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def constriction_decoder(data: DataSet) -> tuple[int, Callable[[], None]]:
    """How many of the first symbols it decodes, and a function that does it, table by table."""
    rows = data.symbols[: max(1, CONSTRICTION_SYMBOLS // data.symbols.shape[1])]
    coder = constriction.stream.stack.AnsCoder()
    steps = []
    table_ids, frequencies = data.coding.table_ids, data.coding.frequencies
    for table in np.unique(table_ids):
        symbols = rows[:, table_ids == table].reshape(-1).astype(np.int32)
        probabilities = frequencies[table].astype(np.float32) / 4096
        model = constriction.stream.model.Categorical(probabilities, perfect=False)
        coder.encode_reverse(symbols, model)
        steps.append((model, symbols.size))
    compressed = coder.get_compressed()

    def decode_all() -> None:
        decoder = constriction.stream.stack.AnsCoder(compressed)
        for model, count in reversed(steps):
            decoder.decode(model, count)

    return rows.size, decode_all
