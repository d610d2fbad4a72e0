"""What calibration learns from: one context at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from cachegen.kvcache import KVCache


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """A context to learn from.

    Attributes:
        tokens: int64 (tokens,).
        kv: the cache of exactly these tokens, from position 0.
        gradient: float32, of the same shapes, or None: the gradient, with respect to kv's values
            as they are cached (keys rotated), of sum_s log p(y_s), where the y_s are
            `continuation_tokens` tokens, each drawn from the model's own prediction at the s-th
            place of the text that really follows.
        continuation_tokens: 0 without a gradient.
    """

    tokens: np.ndarray
    kv: KVCache
    gradient: KVCache | None
    continuation_tokens: int


Samples = Callable[[], Iterable[Sample]]
