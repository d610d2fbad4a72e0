"""Planes to synthesise, and whether a kernel set makes the same of them as the definition."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cachegen.kernels import PlaneLayout, PlaneRotation, Synthesis, synthesis

DTYPES = ("float32", "bfloat16", "float16")
# Before, between and after planes; what lies there must stay as it was.
GAP = 5
# 0, 1, around the 12 rows of the tallest tile and the 48 of a block, a prime.
ROWS = (0, 1, 11, 12, 13, 47, 48, 49, 113)


class Case(Synthesis):
    __slots__ = ()

    def out(self) -> NDArray[Any]:
        end = max((p.offset + p.width * self.num_tokens for p in self.planes), default=0)
        if self.dtype == "float32":
            return np.full(end + GAP, np.nan, dtype=np.float32)
        return np.full(end + GAP, 0xFFFF, dtype=np.uint16)

    def run(
        self, kernel_set: Any, *, out: NDArray[Any] | None = None, **extra: Any
    ) -> NDArray[Any]:
        out = self.out() if out is None else out
        kernel_set.synthesise(self, out, **extra)
        return out


def make_case(
    num_rows: int,
    num_coefficients: int,
    *,
    shapes: tuple[tuple[int, int, int | None], ...] = ((2, 32, 0), (2, 32, None)),
    pairs: tuple[int, ...] = (16,),
    interleaved: bool = False,
    dtype: str = "float32",
    tokens_before: int = 0,
    tokens_after: int = 0,
    scale: float = 1e-9,
    seed: int = 0,
) -> Case:
    """Coefficients and basis over all of int16; `shapes` are heads, dim, rotation."""
    rng = np.random.default_rng(seed)
    num_tokens = tokens_before + num_rows + tokens_after
    planes, offset, columns = [], GAP, 0
    for heads, dim, rotation in shapes:
        planes.append(PlaneLayout(heads, dim, offset, rotation))
        offset += heads * dim * num_tokens + GAP
        columns += heads * dim
    turns = []
    for count in pairs:
        angles = rng.uniform(-9, 9, (num_rows, count)).astype(np.float32)
        turns.append(PlaneRotation(np.cos(angles), np.sin(angles), interleaved))
    return Case(
        coefficients=rng.integers(-32768, 32768, (num_rows, num_coefficients), dtype=np.int16),
        basis=rng.integers(-32768, 32768, (num_coefficients, columns), dtype=np.int16),
        scales=(scale * rng.uniform(0.5, 2, columns)).astype(np.float32),
        means=rng.standard_normal(columns).astype(np.float32),
        planes=tuple(planes),
        rotations=tuple(turns),
        num_tokens=num_tokens,
        tokens=np.arange(tokens_before, tokens_before + num_rows),
        dtype=dtype,
    )


def assert_same(kernel_set, case: Case, **extra) -> None:
    assert case.run(kernel_set, **extra).tobytes() == case.run(synthesis).tobytes()
