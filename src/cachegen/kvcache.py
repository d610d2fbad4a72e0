"""Keys and values of a range of tokens, for models of any geometry.

This module knows no codec, no store and no engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch

DTYPES = (
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
)


@dataclass(frozen=True, slots=True)
class PlaneShape:
    """One plane of a layer: its keys, its values, or a latent that plays their part."""

    heads: int
    dim: int

    @property
    def width(self) -> int:
        """Values per token."""
        return self.heads * self.dim


@dataclass(frozen=True, slots=True)
class Geometry:
    """Shapes and dtype of a cache; parts of one context share them.

    Attributes:
        planes: keys and values of layer 0, keys and values of layer 1, and so on.
        dtype: the element type of every plane.
    """

    planes: tuple[PlaneShape, ...]
    dtype: torch.dtype

    @property
    def num_layers(self) -> int:
        """Layers that hold keys and values."""
        return len(self.planes) // 2

    @property
    def values_per_token(self) -> int:
        """Values of one token over all planes."""
        return sum(plane.width for plane in self.planes)

    def of_layers(self, layers: Sequence[int]) -> Geometry:
        """That of some layers, in this order.

        Raises:
            IndexError: there is no such layer.
        """
        planes = (self.planes[plane] for layer in layers for plane in (2 * layer, 2 * layer + 1))
        return replace(self, planes=tuple(planes))


@dataclass(frozen=True, slots=True, eq=False)
class KVCache:
    """Keys and values of the tokens ``start .. start + num_tokens`` of one context.

    Attributes:
        keys: per layer a tensor ``(kv_heads, tokens, head_dim)``, rotated as the model caches it.
        values: per layer a tensor ``(kv_heads, tokens, value_dim)``; widths may differ from the
            keys' and from layer to layer.
        num_tokens: tokens covered. A sliding-window layer may hold only the last of them.
        start: absolute position of the first token.

    Raises:
        ValueError, TypeError: planes that do not fit together.
    """

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    num_tokens: int
    start: int = 0

    def __post_init__(self) -> None:
        if not self.keys or len(self.keys) != len(self.values):
            raise ValueError(
                f"expected as many layers of keys as of values, at least one; "
                f"got {len(self.keys)} and {len(self.values)}"
            )
        if self.start < 0 or self.num_tokens < 0:
            raise ValueError(
                f"start and num_tokens must be >= 0, got {self.start} and {self.num_tokens}"
            )
        for layer, (key, value) in enumerate(zip(self.keys, self.values, strict=True)):
            _check_layer(layer, key, value, num_tokens=self.num_tokens)
        found = {(plane.dtype, plane.device) for plane in self.planes()}
        if len(found) > 1:
            raise TypeError(f"expected one dtype and one device for all planes, got {found}")
        if self.dtype not in DTYPES:
            raise TypeError(f"expected one of {DTYPES}, got {self.dtype}")

    @classmethod
    def from_layers(
        cls, layers: Sequence[tuple[torch.Tensor, torch.Tensor]], *, start: int = 0
    ) -> KVCache:
        """Wrap ``(keys, values)`` per layer, each ``(kv_heads, tokens, dim)``, without a copy."""
        keys = tuple(key for key, _ in layers)
        values = tuple(value for _, value in layers)
        num_tokens = max((key.shape[1] for key in keys if key.ndim == 3), default=0)
        return cls(keys, values, num_tokens, start)

    @property
    def dtype(self) -> torch.dtype:
        """Element type of every plane."""
        return self.keys[0].dtype

    @property
    def device(self) -> torch.device:
        """Where the planes live."""
        return self.keys[0].device

    @property
    def stop(self) -> int:
        """Absolute position after the last token."""
        return self.start + self.num_tokens

    @property
    def num_layers(self) -> int:
        """Number of layers."""
        return len(self.keys)

    @property
    def geometry(self) -> Geometry:
        """Shapes and dtype, without the token range."""
        shapes = tuple(PlaneShape(p.shape[0], p.shape[2]) for p in self.planes())
        return Geometry(shapes, self.dtype)

    @property
    def num_values(self) -> int:
        """Values held, over all planes."""
        return sum(plane.numel() for plane in self.planes())

    @property
    def size_bytes(self) -> int:
        """Bytes held, over all planes."""
        return sum(plane.numel() * plane.element_size() for plane in self.planes())

    @property
    def is_complete(self) -> bool:
        """Whether every layer holds every token."""
        return all(key.shape[1] == self.num_tokens for key in self.keys)

    def planes(self) -> Iterator[torch.Tensor]:
        """Keys and values of layer 0, then of layer 1, and so on."""
        for key, value in zip(self.keys, self.values, strict=True):
            yield key
            yield value

    def slice(self, first: int, stop: int) -> KVCache:
        """Tokens ``first .. stop`` counted from this cache's own first token; views, no copy."""
        if not 0 <= first <= stop <= self.num_tokens:
            raise ValueError(
                f"expected 0 <= first <= stop <= {self.num_tokens}, got {first} and {stop}"
            )
        layers = [
            (_rows(key, self.num_tokens, first, stop), _rows(value, self.num_tokens, first, stop))
            for key, value in zip(self.keys, self.values, strict=True)
        ]
        keys, values = zip(*layers, strict=True)
        return KVCache(keys, values, stop - first, self.start + first)

    def of_layers(self, layers: Sequence[int]) -> KVCache:
        """The same tokens of some layers only, in this order; no copy."""
        keys, values = (tuple(planes[i] for i in layers) for planes in (self.keys, self.values))
        return replace(self, keys=keys, values=values)

    def to(self, device: torch.device | str) -> KVCache:
        """The same cache on another device; itself where it already is there."""
        if self.device == torch.device(device):
            return self
        keys = tuple(key.to(device) for key in self.keys)
        values = tuple(value.to(device) for value in self.values)
        return replace(self, keys=keys, values=values)

    @staticmethod
    def concat(parts: Sequence[KVCache]) -> KVCache:
        """Join caches of adjacent token ranges, in order.

        Raises:
            ValueError: nothing to join, other geometry, or a gap between two parts.
        """
        if not parts:
            raise ValueError("expected at least one cache to concatenate, got none")
        for left, right in pairwise(parts):
            _check_adjacent(left, right)
        if len(parts) == 1:
            return parts[0]
        keys = tuple(torch.cat(k, dim=1) for k in zip(*(p.keys for p in parts), strict=True))
        values = tuple(torch.cat(v, dim=1) for v in zip(*(p.values for p in parts), strict=True))
        return KVCache(keys, values, sum(p.num_tokens for p in parts), parts[0].start)


def _check_layer(layer: int, key: torch.Tensor, value: torch.Tensor, *, num_tokens: int) -> None:
    if key.ndim != 3 or value.ndim != 3:
        raise ValueError(
            f"layer {layer}: expected (kv_heads, tokens, dim), got keys {tuple(key.shape)} "
            f"and values {tuple(value.shape)}; drop the batch dimension first"
        )
    if key.shape[1] != value.shape[1] or key.shape[1] > num_tokens:
        raise ValueError(
            f"layer {layer}: expected equally many tokens in keys and values, at most "
            f"{num_tokens}; got {key.shape[1]} and {value.shape[1]}"
        )


def _check_adjacent(left: KVCache, right: KVCache) -> None:
    if left.geometry != right.geometry:
        raise ValueError(f"cannot join {left.geometry} with {right.geometry}")
    if left.stop != right.start:
        raise ValueError(
            f"cannot join tokens {left.start}..{left.stop} with {right.start}..{right.stop}: "
            "the second must start where the first stops"
        )
    for layer, (before, after) in enumerate(zip(left.keys, right.keys, strict=True)):
        if before.shape[1] and after.shape[1] < right.num_tokens:
            raise ValueError(
                f"layer {layer}: tokens are missing between the two parts "
                f"({after.shape[1]} of {right.num_tokens} in the second)"
            )


def _rows(plane: torch.Tensor, num_tokens: int, first: int, stop: int) -> torch.Tensor:
    missing = num_tokens - plane.shape[1]
    return plane[:, max(0, first - missing) : max(0, stop - missing)]
