"""Requests of a trace of conversations: shared beginnings, lengths, times."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# The trace names blocks of 512 tokens; here a block is this long, and all lengths shrink alike.
BLOCK_TOKENS = 64
_SCALE = 512 // BLOCK_TOKENS


@dataclass(frozen=True, slots=True)
class Asked:
    """A request.

    Attributes:
        at_s: when it comes, in the trace's time.
        blocks: names of the blocks of its prompt; equal names at the beginning are equal text.
        prompt_tokens, output_tokens: scaled.
    """

    at_s: float
    blocks: tuple[int, ...]
    prompt_tokens: int
    output_tokens: int


def read(path: Path, *, every: int, most_tokens: int, most_output: int) -> list[Asked]:
    """Every n-th conversation of a trace, whole, in order of time.

    A conversation is what shares the second block: all of the trace share the first one.

    Args:
        path: JSON lines, ``timestamp`` in ms, ``input_length``, ``output_length``, ``hash_ids``.
        every: of so many conversations one is taken.
        most_tokens: longer prompts are left out.
        most_output: longer answers are cut.
    """
    talks: defaultdict[int, list[Asked]] = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        known = json.loads(line)
        asked = Asked(
            known["timestamp"] / 1e3,
            tuple(known["hash_ids"]),
            known["input_length"] // _SCALE,
            min(max(known["output_length"] // _SCALE, 1), most_output),
        )
        if len(asked.blocks) > 1:
            talks[asked.blocks[1]].append(asked)
    taken = [asked for talk in list(talks.values())[::every] for asked in talk]
    return sorted((a for a in taken if a.prompt_tokens <= most_tokens), key=lambda a: a.at_s)


def prompt(asked: Asked, text: Sequence[int], *, seed: int) -> list[int]:
    """Its token ids: of each block the same whenever it is named, for each seed others."""
    tokens: list[int] = []
    for block in asked.blocks:
        start = (block * 97 + seed * 7919) % (len(text) - BLOCK_TOKENS)
        # Two tokens that no other block of any seed begins with, from the text's own.
        name = (text[block % 1000], text[(block // 1000 + 100 * seed) % 1000])
        tokens += [*name, *text[start : start + BLOCK_TOKENS - 2]]
    return tokens[: asked.prompt_tokens]


def repeated_tokens(asked: Sequence[Asked]) -> int:
    """How many tokens of prompts an endless cache would have, in whole blocks of the trace."""
    seen: set[tuple[int, ...]] = set()
    tokens = 0
    for each in asked:
        whole = each.blocks[: each.prompt_tokens // BLOCK_TOKENS]
        beginnings = [whole[: count + 1] for count in range(len(whole))]
        tokens += BLOCK_TOKENS * sum(beginning in seen for beginning in beginnings)
        seen.update(beginnings)
    return tokens


def spread(asked: Sequence[Asked], requests_per_s: float) -> list[float]:
    """When each comes, with the trace's gaps, at so many a second on average."""
    first, last = asked[0].at_s, asked[-1].at_s
    scale = (len(asked) - 1) / requests_per_s / max(last - first, 1e-9)
    return [(each.at_s - first) * scale for each in asked]
