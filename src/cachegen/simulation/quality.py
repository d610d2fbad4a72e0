"""What the chunks of a load are worth, from the quality of their levels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from cachegen.codec.levels import TEXT


def kl_of_chunks(levels: Sequence[str], kl: Mapping[str, float]) -> Iterator[float]:
    """Nats per token of each chunk; one that was recomputed counts as the worst before it.

    Args:
        levels: of the chunks, in the order of the context.
        kl: of every level that is among them, beside `text`.

    Raises:
        KeyError: a level of unknown quality.
    """
    worst = 0.0
    for level in levels:
        yield worst if level == TEXT else kl[level]
        worst = max(worst, kl.get(level, 0.0))
