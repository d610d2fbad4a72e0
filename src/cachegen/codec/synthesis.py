"""From integers to planes: the second half of preset `transform`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from cachegen import kernels
from cachegen.codec import matrix
from cachegen.codec.basis import IntegerBasis, Transform
from cachegen.codec.fixed import unpack_planes
from cachegen.codec.rope import RopeMap
from cachegen.kernels.layout import PlaneLayout, Turn
from cachegen.kvcache import Geometry, KVCache

_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


def synthesise(
    inputs: Iterable[np.ndarray],
    sinks: dict[str, np.ndarray],
    transform: Transform,
    bases: Sequence[IntegerBasis],
    rope: RopeMap,
    geometry: Geometry,
    *,
    start: int,
    num_tokens: int,
    num_rows: int,
    threads: int,
) -> KVCache:
    """The cache behind coefficients.

    Args:
        inputs: per group int16 (rows, active coefficients + features): coefficients in 1/32 steps
            and the features of the text.
        sinks: the arrays `scales` and `codes` of the tokens before the rows.
        transform: what it was analysed with.
        bases: per group, the integers of its level.
        rope: rotations to put back.
        geometry: planes and dtype of the cache.
        start: absolute position of the first token.
        num_tokens: tokens covered.
        num_rows: the last of them, which the inputs are of; sinks come before.
        threads: worker threads.

    Raises:
        BitstreamError: sinks that are not those of these tokens.
    """
    elements, offsets = _elements(geometry, num_tokens)
    skipped = num_tokens - num_rows
    turns = _turns(rope, start + skipped, start + num_tokens)
    for group, basis, own in zip(transform.groups, bases, inputs, strict=True):
        kernels.synthesise(
            own,
            basis.rows,
            basis.scales,
            group.means,
            _as_numpy(elements),
            planes=[
                PlaneLayout(
                    geometry.planes[plane].heads,
                    geometry.planes[plane].dim,
                    offsets[plane],
                    rope.of_plane[plane],
                )
                for plane in group.planes
                if geometry.planes[plane].width
            ],
            rotations=turns,
            num_tokens=num_tokens,
            first_token=skipped,
            dtype=_NAMES[geometry.dtype],
            threads=threads,
        )
    planes = {
        index: elements[first : first + shape.width * num_tokens].view(
            shape.heads, num_tokens, shape.dim
        )
        for index, (shape, first) in enumerate(zip(geometry.planes, offsets, strict=True))
    }
    if skipped:
        shapes = [(shape.heads, skipped, shape.dim) for shape in geometry.planes]
        for index, first in enumerate(unpack_planes(sinks, shapes)):
            matrix.fill_plane(planes[index][:, :skipped], first.transpose(0, 1))
    return matrix.from_planes(planes, geometry, start=start, num_tokens=num_tokens)


def _elements(geometry: Geometry, num_tokens: int) -> tuple[torch.Tensor, list[int]]:
    """Memory for all planes, one after the other, and where each begins."""
    offsets = matrix.plane_offsets(geometry) * num_tokens
    return torch.empty(int(offsets[-1]), dtype=geometry.dtype), offsets[:-1].tolist()


def _as_numpy(elements: torch.Tensor) -> np.ndarray:
    if elements.dtype == torch.float32:
        return elements.numpy()
    return elements.view(torch.int16).numpy().view(np.uint16)


def _turns(rope: RopeMap, first: int, stop: int) -> list[Turn]:
    positions = np.arange(first, stop).astype(np.float32)[:, None]
    angles = [positions * np.array(one.inverse_frequencies, dtype=np.float32) for one in rope.ropes]
    return [
        Turn(np.cos(angle), np.sin(angle), one.interleaved)
        for angle, one in zip(angles, rope.ropes, strict=True)
    ]
