"""The two sets of symbols that benchmarks/kernels.py codes."""

from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from cachegen import kernels, refmodel

NUM_ROWS = 1536
ENTROPY_BITS = 2.0
EXCERPT_CHARACTERS = 12_000
TEXTS = ("heldout-anstey", "heldout-chesterton", "heldout-craik")


@dataclass(frozen=True, slots=True)
class DataSet:
    """Symbols (rows, columns), and how they are coded.

    The columns belong to contexts that stand side by side, `context_columns` to each.
    """

    name: str
    symbols: NDArray[np.uint8]
    coding: kernels.Coding
    context_columns: tuple[int, ...] = ()

    @property
    def entropy_bytes(self) -> float:
        """Zero-order entropy of the symbols under their tables."""
        bits = np.zeros(len(self.coding.frequencies))
        for table, frequencies in enumerate(self.coding.frequencies):
            columns = self.symbols[:, self.coding.table_ids == table]
            counts = np.bincount(columns.reshape(-1), minlength=256)
            used = counts > 0
            bits[table] = -(counts[used] * np.log2(frequencies[used] / 4096)).sum()
        return float(bits.sum()) / 8

    def contexts(self) -> list[NDArray[np.uint8]]:
        """The symbols of one context after the other, (rows, columns of the context)."""
        ends = np.cumsum(self.context_columns)[:-1]
        return [np.ascontiguousarray(one) for one in np.split(self.symbols, ends, axis=1)]

    def first_rows(self, num_rows: int) -> "DataSet":
        """The same data set, cut short."""
        return replace(self, symbols=self.symbols[:num_rows])


def laplacian(num_columns: int = 20_480) -> DataSet:
    """Rounded Laplacian numbers around 128 with an entropy of 2 bits, all of one table."""
    rng = np.random.default_rng(0)
    values = rng.laplace(128, _scale_of_entropy(ENTROPY_BITS), (NUM_ROWS, num_columns))
    symbols = values.round().clip(0, 255).astype(np.uint8)
    counts = np.bincount(symbols.reshape(-1), minlength=256)
    coding = kernels.Coding(
        table_ids=np.zeros(num_columns, dtype=np.int32),
        frequencies=kernels.normalise(counts[None]),
        lanes=32,
        rows_per_substream=NUM_ROWS,
        groups_per_substream=2,
    )
    return DataSet("laplacian", symbols, coding, context_columns=(num_columns,))


def shipped_text() -> str:
    return "\n".join(map(refmodel.load_text, TEXTS))


def excerpts(text: str) -> list[str]:
    """Twenty stretches of a text, each longer than a context."""
    starts = range(0, 20 * EXCERPT_CHARACTERS, EXCERPT_CHARACTERS)
    return [text[start : start + EXCERPT_CHARACTERS] for start in starts]


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
    return _side_by_side("coefficients", [DataSet("", *call.args) for call in spy.call_args_list])


def _side_by_side(name: str, parts: list[DataSet]) -> DataSet:
    """One block of the parts' columns in the first part's grid, equal tables merged."""
    codings = [part.coding for part in parts]
    first_tables = np.cumsum([0] + [len(one.frequencies) for one in codings])
    frequencies, merged = np.unique(
        np.concatenate([one.frequencies for one in codings]), axis=0, return_inverse=True
    )
    ids = [one.table_ids + first for one, first in zip(codings, first_tables, strict=False)]
    table_ids = merged.reshape(-1)[np.concatenate(ids)].astype(np.int32)
    return DataSet(
        name,
        np.concatenate([part.symbols for part in parts], axis=1),
        replace(codings[0], table_ids=table_ids, frequencies=frequencies),
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
