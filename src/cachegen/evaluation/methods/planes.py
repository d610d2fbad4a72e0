"""What coders are made of: planes and numbers as plain bytes, read back in the same order."""

from __future__ import annotations

import math

import numpy as np
import torch

from cachegen.codec import matrix

Shape = tuple[int, ...]


def to_bytes(plane: torch.Tensor) -> bytes:
    """The elements as they are."""
    return plane.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


class Reader:
    """Takes bytes apart, from the first one on."""

    def __init__(self, data: bytes) -> None:
        self._left = memoryview(data)

    def take(self, num_bytes: int) -> bytes:
        """So many bytes.

        Raises:
            ValueError: there are fewer.
        """
        if num_bytes > len(self._left):
            raise ValueError(f"expected {num_bytes} more bytes, got {len(self._left)}")
        taken, self._left = self._left[:num_bytes], self._left[num_bytes:]
        return bytes(taken)

    def plane(self, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
        """The inverse of `to_bytes`."""
        data = self.take(math.prod(shape) * dtype.itemsize)
        if not data:
            return torch.empty(shape, dtype=dtype)
        return torch.frombuffer(bytearray(data), dtype=dtype).view(shape)

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._left))

    def end(self) -> None:
        """Refuse bytes that nobody has read.

        Raises:
            ValueError: some are left.
        """
        if len(self._left):
            raise ValueError(f"expected the end of the data, got {len(self._left)} more bytes")


def rounded(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Float32 values in the cache's dtype; float16 saturates."""
    return matrix.saturate(values, dtype).to(dtype)


def words_of(plane: torch.Tensor) -> np.ndarray:
    """The elements as unsigned integers."""
    return matrix.as_words(plane.contiguous())
