"""Blocks to code, and the kernel sets of this machine one after the other."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cachegen import kernels
from cachegen.kernels import cpu

SETS = ("reference", "cpu-portable", "cpu-avx2", "cpu-avx512")


@dataclass(frozen=True, slots=True)
class Block:
    symbols: NDArray[np.uint8]
    table_ids: NDArray[np.int32]
    frequencies: NDArray[np.uint16]
    lanes: int
    rows_per_substream: int
    groups_per_substream: int

    @property
    def shape_arguments(self) -> dict[str, int]:
        return {
            "lanes": self.lanes,
            "rows_per_substream": self.rows_per_substream,
            "groups_per_substream": self.groups_per_substream,
        }

    def with_(self, **changes: Any) -> "Block":
        return replace(self, **changes)

    def encode(self, kernel_set: Any, **extra: Any) -> kernels.CodedBlock:
        return kernel_set.encode(
            self.symbols, self.table_ids, self.frequencies, **self.shape_arguments, **extra
        )

    def decode(self, kernel_set: Any, coded: kernels.CodedBlock, **extra: Any) -> NDArray[np.uint8]:
        return kernel_set.decode(
            coded.words,
            coded.sizes,
            self.table_ids,
            self.frequencies,
            num_rows=len(self.symbols),
            **self.shape_arguments,
            **extra,
        )


def make_block(
    rows: int,
    groups: int,
    *,
    lanes: int = 32,
    rows_per_substream: int = 1 << 20,
    groups_per_substream: int = 1 << 20,
    num_tables: int = 3,
    spread: float = 2.0,
    seed: int = 0,
) -> Block:
    """Laplacian symbols around 128, columns scattered over tables that fit them."""
    rng = np.random.default_rng(seed)
    values = rng.laplace(128, spread, (rows, groups * lanes)).round().clip(0, 255)
    symbols = values.astype(np.uint8)
    counts = np.bincount(symbols.reshape(-1), minlength=256)
    variants = counts * rng.integers(1, 9, (num_tables, 256))
    return Block(
        symbols=symbols,
        table_ids=rng.integers(0, num_tables, groups * lanes, dtype=np.int32),
        frequencies=kernels.normalise(variants),
        lanes=lanes,
        rows_per_substream=rows_per_substream,
        groups_per_substream=groups_per_substream,
    )


@pytest.fixture(scope="session", name="make_block")
def _make_block() -> Callable[..., Block]:
    return make_block


@pytest.fixture(params=SETS)
def kernel_set(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ModuleType]:
    """cachegen.kernels, made to use one kernel set."""
    isa = request.param.removeprefix("cpu-")
    if isa != "reference" and isa not in cpu.supported_isas():
        pytest.skip(f"this machine does not run {isa}")
    monkeypatch.setenv("CACHEGEN_KERNELS", request.param)
    assert kernels.active_set() == request.param
    yield kernels


@pytest.fixture(scope="session")
def isas() -> list[str]:
    return cpu.supported_isas()
