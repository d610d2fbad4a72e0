"""Rotary position embedding, taken off keys before coding and put back after decoding.

Angles are our own, position times inverse frequency in float32: what matters is that the two
directions undo each other, not that they repeat an engine's rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cachegen.kvcache import Geometry


@dataclass(frozen=True, slots=True)
class Rope:
    """One rotation of the first ``2 * len(inverse_frequencies)`` dimensions of a head.

    Attributes:
        inverse_frequencies: radians per position, one for each pair of dimensions.
        interleaved: pairs are neighbours (0, 1), (2, 3); otherwise dimension i of the first
            half of the rotated part pairs with dimension i of the second.
    """

    inverse_frequencies: tuple[float, ...]
    interleaved: bool = False

    @property
    def rotated_dims(self) -> int:
        """How many dimensions turn."""
        return 2 * len(self.inverse_frequencies)


@dataclass(frozen=True, slots=True)
class RopeMap:
    """Which plane is rotated how.

    Attributes:
        ropes: the rotations of the model.
        of_plane: per plane (keys of layer 0, values of layer 0, keys of layer 1, ...) an index
            into `ropes`, or None where the plane is not rotated.
    """

    ropes: tuple[Rope, ...]
    of_plane: tuple[int | None, ...]

    @classmethod
    def none(cls, num_planes: int) -> RopeMap:
        """No plane is rotated, or nobody knows how."""
        return cls((), (None,) * num_planes)

    def of_planes(self, planes: Sequence[int]) -> RopeMap:
        """That of some planes, in this order, with the rotations that turn any of them."""
        turns = [self.of_plane[plane] for plane in planes]
        kept = sorted({index for index in turns if index is not None})
        return RopeMap(
            tuple(self.ropes[index] for index in kept),
            tuple(None if index is None else kept.index(index) for index in turns),
        )

    def rope(self, plane: int) -> Rope | None:
        """The rotation of a plane."""
        index = self.of_plane[plane]
        return None if index is None else self.ropes[index]


def check_fits(ropes: RopeMap, geometry: Geometry) -> None:
    """Refuse rotations of other planes.

    Raises:
        ValueError: another number of planes, or more dimensions turn than a head has.
    """
    if len(ropes.of_plane) != len(geometry.planes):
        raise ValueError(
            f"expected rotations of {len(geometry.planes)} planes, got {len(ropes.of_plane)}"
        )
    for plane, shape in enumerate(geometry.planes):
        rope = ropes.rope(plane)
        if rope is not None and rope.rotated_dims > shape.dim:
            raise ValueError(
                f"plane {plane}: {rope.rotated_dims} dimensions turn, a head has {shape.dim}"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Rotation:
    """A rotation at given positions.

    Attributes:
        cos: float32 (tokens, rotated_dims / 2).
        sin: likewise.
        interleaved: as in `Rope`.
    """

    cos: torch.Tensor
    sin: torch.Tensor
    interleaved: bool


def rotation(rope: Rope, positions: torch.Tensor) -> Rotation:
    """The rotation at integer positions (tokens,)."""
    inverse = torch.tensor(rope.inverse_frequencies, dtype=torch.float32, device=positions.device)
    angles = positions.to(torch.float32)[:, None] * inverse
    return Rotation(angles.cos(), angles.sin(), rope.interleaved)


def rotations(ropes: RopeMap, first: int, stop: int) -> tuple[Rotation | None, ...]:
    """The rotation of every plane at the positions ``first .. stop``."""
    positions = torch.arange(first, stop)
    found = [rotation(rope, positions) for rope in ropes.ropes]
    return tuple(None if index is None else found[index] for index in ropes.of_plane)


def rotate(rows: torch.Tensor, rope: Rope, positions: torch.Tensor, *, inverse: bool) -> None:
    """Turn float32 rows (tokens, ..., head_dim) in place; `inverse` takes the rotation off."""
    turn(rows, rotation(rope, positions), inverse=inverse)


def turn(rows: torch.Tensor, by: Rotation, *, inverse: bool) -> None:
    """As `rotate`, by angles that are already known."""
    tokens, pairs = by.cos.shape
    shape = (tokens, *[1] * (rows.ndim - 2), pairs)
    cos, sin = by.cos.view(shape), by.sin.view(shape)
    turned = rows[..., : 2 * pairs]
    if by.interleaved:
        first, second = turned[..., 0::2], turned[..., 1::2]
    else:
        first, second = turned[..., :pairs], turned[..., pairs:]
    sign = 1 if inverse else -1
    new_first = (first * cos).addcmul_(second, sin, value=sign)
    second.mul_(cos).addcmul_(first, sin, value=-sign)
    first.copy_(new_first)
