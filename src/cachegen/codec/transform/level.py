"""One rung of a transform profile's ladder, ready to code with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cachegen.codec.blocks import sorted_by_table
from cachegen.codec.rope import RopeMap
from cachegen.codec.transform.basis import IntegerBasis, Transform, integer_basis
from cachegen.codec.transform.quantisation import Quantiser


@dataclass(frozen=True, eq=False)
class TransformLevel:
    """One rung of a transform profile's ladder, ready to code with.

    Attributes:
        transform: shared by all rungs.
        rope: rotations to take off keys.
        step: quantisation step, in the transform's units.
        num_active: per class of tokens and group, coefficients that are coded.
        bases: per group, the integers it is put together with.
        table_ids: per class and group int64 (active coefficients,), rows of `frequencies`.
        frequencies: uint16 (tables, 256).
    """

    transform: Transform
    rope: RopeMap
    step: float
    num_active: tuple[tuple[int, ...], ...]
    bases: tuple[IntegerBasis, ...]
    table_ids: tuple[tuple[np.ndarray, ...], ...]
    frequencies: np.ndarray

    @cached_property
    def by_table(self) -> tuple[tuple[np.ndarray, ...], ...]:
        """Per class and group, the coefficients in the order of their tables."""
        return tuple(tuple(map(sorted_by_table, ids)) for ids in self.table_ids)

    @cached_property
    def quantiser(self) -> Quantiser:
        """What only encoding needs."""
        return Quantiser.of(
            self.transform, step=self.step, num_active=self.num_active, bases=self.bases
        )


def transform_level(
    transform: Transform,
    rope: RopeMap,
    *,
    step: float,
    num_active: tuple[tuple[int, ...], ...],
    table_ids: np.ndarray,
    frequencies: np.ndarray,
) -> TransformLevel:
    """A rung; `table_ids` are those of all classes and groups, one after the other."""
    most = [max(counts) for counts in zip(*num_active, strict=True)]
    bases = tuple(
        integer_basis(group, step=step, num_active=count, grid=transform.grid)
        for group, count in zip(transform.groups, most, strict=True)
    )
    counts = [count for active in num_active for count in active]
    ids = iter(np.split(table_ids, np.cumsum(counts)[:-1]))
    by_class = tuple(tuple(next(ids) for _ in active) for active in num_active)
    return TransformLevel(transform, rope, step, num_active, bases, by_class, frequencies)
