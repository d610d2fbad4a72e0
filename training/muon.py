"""Muon: momentum, orthogonalised by a Newton-Schulz iteration, for the matrices inside the layers.

In float32, with matrices of one shape iterated as a batch: torch.optim.Muon iterates in bfloat16,
one by one, which is slow on CPUs without bfloat16 instructions.
"""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
MOMENTUM = 0.95
WEIGHT_DECAY = 0.01


def orthogonalise(matrices: Tensor, *, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrices of a batch, approximately; (batch, rows, columns)."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


@torch.no_grad()
def muon_step(
    params: Sequence[Tensor], grads: Sequence[Tensor], momenta: Sequence[Tensor], *, lr: float
) -> None:
    """Update matrices of one shape, and their momenta, in place."""
    updates = []
    for grad, momentum in zip(grads, momenta, strict=True):
        momentum.lerp_(grad, 1 - MOMENTUM)
        updates.append(grad.lerp(momentum, MOMENTUM))
    rows, columns = params[0].shape
    scale = max(1.0, rows / columns) ** 0.5
    for param, update in zip(params, orthogonalise(torch.stack(updates)), strict=True):
        param.mul_(1 - lr * WEIGHT_DECAY)
        param.add_(update, alpha=-lr * scale)


def same_shape_chunks(params: Sequence[Tensor], *, size: int = 6) -> list[list[int]]:
    """Indices of the parameters in chunks of one shape each."""
    by_shape: dict[torch.Size, list[int]] = defaultdict(list)
    for index, param in enumerate(params):
        by_shape[param.shape].append(index)
    return [
        indices[start : start + size]
        for indices in by_shape.values()
        for start in range(0, len(indices), size)
    ]
