"""The two sets of symbols that benchmarks/kernels.py codes."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from cachegen import kernels

NUM_ROWS = 1536
ENTROPY_BITS = 2.0


@dataclass(frozen=True, slots=True)
class DataSet:
    """Symbols (rows, columns), their tables, and the grid they are coded in.

    The columns belong to contexts that stand side by side, `context_columns` to each.
    """

    name: str
    symbols: NDArray[np.uint8]
    table_ids: NDArray[np.int32]
    frequencies: NDArray[np.uint16]
    lanes: int
    rows_per_substream: int
    groups_per_substream: int
    context_columns: tuple[int, ...] = ()

    @property
    def entropy_bytes(self) -> float:
        """Zero-order entropy of the symbols under their tables."""
        bits = np.zeros(len(self.frequencies))
        for table, frequencies in enumerate(self.frequencies):
            columns = self.symbols[:, self.table_ids == table]
            counts = np.bincount(columns.reshape(-1), minlength=256)
            used = counts > 0
            bits[table] = -(counts[used] * np.log2(frequencies[used] / 4096)).sum()
        return float(bits.sum()) / 8

    def contexts(self) -> list[NDArray[np.uint8]]:
        """The symbols of one context after the other, (rows, columns of the context)."""
        ends = np.cumsum(self.context_columns)[:-1]
        return [np.ascontiguousarray(one) for one in np.split(self.symbols, ends, axis=1)]

    def grid(self) -> dict[str, int]:
        """The keyword arguments that both directions of a kernel take."""
        return {
            "lanes": self.lanes,
            "rows_per_substream": self.rows_per_substream,
            "groups_per_substream": self.groups_per_substream,
        }

    def first_rows(self, num_rows: int) -> "DataSet":
        """The same data set, cut short."""
        return replace(self, symbols=self.symbols[:num_rows])


def laplacian(num_columns: int = 20_480) -> DataSet:
    """Rounded Laplacian numbers around 128 with an entropy of 2 bits, all of one table."""
    rng = np.random.default_rng(0)
    values = rng.laplace(128, _scale_of_entropy(ENTROPY_BITS), (NUM_ROWS, num_columns))
    symbols = values.round().clip(0, 255).astype(np.uint8)
    counts = np.bincount(symbols.reshape(-1), minlength=256)
    return DataSet(
        name="laplacian",
        symbols=symbols,
        table_ids=np.zeros(num_columns, dtype=np.int32),
        frequencies=kernels.normalise(counts[None]),
        lanes=32,
        rows_per_substream=NUM_ROWS,
        groups_per_substream=2,
        context_columns=(num_columns,),
    )


def coefficients(model_path: Path, profile_path: Path, texts: list[str]) -> DataSet:
    """What the codec hands to the kernels for contexts of 1,536 tokens at level `high`.

    The contexts stand side by side, as if they were more layers of one: a larger block than the
    small reference model makes, of the same height.
    """
    from cachegen.cli.models import load_model
    from cachegen.codec.codec import encode_chunk
    from cachegen.codec.profile import read_profile
    from cachegen.engines.transformers.cache import capture
    from cachegen.engines.transformers.rope import rope_map

    model, tokenizer = load_model(model_path)
    profile = read_profile(profile_path)
    with patch.object(kernels, "encode", wraps=kernels.encode) as spy:
        for text in texts:
            tokens = tokenizer(text, truncation=True, max_length=NUM_ROWS)["input_ids"]
            encode_chunk(
                capture(model, tokens), profile=profile, level="high", rope=rope_map(model)
            )
    return _side_by_side("coefficients", [_as_data_set(call) for call in spy.call_args_list])


def _as_data_set(call: Any) -> DataSet:
    grid = {name: value for name, value in call.kwargs.items() if name != "threads"}
    return DataSet("", *call.args, **grid)


def _side_by_side(name: str, parts: list[DataSet]) -> DataSet:
    """One block of the parts' columns in the first part's grid, equal tables merged."""
    first_tables = np.cumsum([0] + [len(part.frequencies) for part in parts])
    frequencies, merged = np.unique(
        np.concatenate([part.frequencies for part in parts]), axis=0, return_inverse=True
    )
    ids = [part.table_ids + first for part, first in zip(parts, first_tables, strict=False)]
    return replace(
        parts[0],
        name=name,
        symbols=np.concatenate([part.symbols for part in parts], axis=1),
        table_ids=merged.reshape(-1)[np.concatenate(ids)].astype(np.int32),
        frequencies=frequencies,
        context_columns=tuple(part.symbols.shape[1] for part in parts),
    )


def _scale_of_entropy(bits: float) -> float:
    """The scale at which a rounded Laplacian variable has this entropy, by bisection."""
    low, high = 0.01, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _entropy(middle) < bits else (low, middle)
    return low


def _entropy(scale: float) -> float:
    edges = np.arange(0.5, 128)
    tail = np.exp(-edges / scale) / 2
    above = tail[:-1] - tail[1:]
    p = np.concatenate([[1 - 2 * tail[0]], above, above])
    p = p[p > 0]
    return float(-(p * np.log2(p)).sum())
