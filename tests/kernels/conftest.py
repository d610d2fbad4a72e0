"""Blocks to code, and the kernel sets of this machine one after the other."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cachegen import kernels
from cachegen.kernels import CodedBlock, Coding, cpu

SETS = ("reference", "cpu-portable", "cpu-avx2", "cpu-avx512")


@dataclass(frozen=True, slots=True)
class Block:
    symbols: NDArray[np.uint8]
    coding: Coding

    def with_(self, symbols: NDArray[np.uint8] | None = None, **changes: Any) -> "Block":
        symbols = self.symbols if symbols is None else symbols
        return Block(symbols, replace(self.coding, **changes))

    def encode(self, kernel_set: Any, **extra: Any) -> CodedBlock:
        return kernel_set.encode(self.symbols, self.coding, **extra)

    def decode(self, kernel_set: Any, coded: CodedBlock, **extra: Any) -> NDArray[np.uint8]:
        return kernel_set.decode(coded, self.coding, num_rows=len(self.symbols), **extra)


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
    coding = Coding(
        table_ids=rng.integers(0, num_tables, groups * lanes, dtype=np.int32),
        frequencies=kernels.normalise(variants),
        lanes=lanes,
        rows_per_substream=rows_per_substream,
        groups_per_substream=groups_per_substream,
    )
    return Block(symbols, coding)


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
