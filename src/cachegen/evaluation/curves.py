"""What a method needs at a quality: between the points of its curve."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise


def bits_at(points: Iterable[tuple[float, float]], kl: float) -> float | None:
    """Bits per value at which a curve reaches this KL: log KL is linear between its points.

    The first crossing counts where there are several; None outside of the curve.

    Args:
        points: bits per value and KL, nats per token, in any order.
        kl: nats per token.
    """
    for (fewer, worse), (more, better) in pairwise(sorted(points)):
        if worse >= kl >= better > 0:
            if worse == better:
                return fewer
            share = math.log(worse / kl) / math.log(worse / better)
            return fewer + share * (more - fewer)
    return None
