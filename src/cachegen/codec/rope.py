"""Rotary position embedding, taken off keys before coding and put back after decoding.

Angles are our own, position times inverse frequency in float32: what matters is that the two
directions undo each other, not that they repeat an engine's rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


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

    def rope(self, plane: int) -> Rope | None:
        """The rotation of a plane."""
        index = self.of_plane[plane]
        return None if index is None else self.ropes[index]


def angles(rope: Rope, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines, float32 (tokens, rotated_dims / 2), at integer positions (tokens,)."""
    inverse = torch.tensor(rope.inverse_frequencies, dtype=torch.float32, device=positions.device)
    turn = positions.to(torch.float32)[:, None] * inverse
    return turn.cos(), turn.sin()


def rotate(rows: torch.Tensor, rope: Rope, positions: torch.Tensor, *, inverse: bool) -> None:
    """Turn float32 rows (tokens, ..., head_dim) in place; `inverse` takes the rotation off."""
    cos, sin = angles(rope, positions)
    if inverse:
        sin = -sin
    middle = [1] * (rows.ndim - 2)
    cos, sin = (part.view(len(part), *middle, part.shape[1]) for part in (cos, sin))
    turned = rows[..., : rope.rotated_dims]
    if rope.interleaved:
        first, second = turned[..., 0::2], turned[..., 1::2]
    else:
        first, second = turned.chunk(2, dim=-1)
    new_first = first * cos - second * sin
    second.mul_(cos).add_(first * sin)
    first.copy_(new_first)
