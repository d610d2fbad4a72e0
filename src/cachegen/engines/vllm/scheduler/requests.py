"""What the scheduler's side knows of every request, and of every block."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cachegen.engines.vllm.identity.request import RequestIdentity
from cachegen.engines.vllm.layout.paged import NULL_BLOCK
from cachegen.engines.vllm.scheduler.lookups import Answer

# Names of chunks that were given to be saved: 10 MB of them. Arbitrary: 10,000 to a million do.
_MOST_NAMES = 100_000


@dataclass(slots=True, eq=False)
class Tracked:
    """A request.

    Attributes:
        answer: what is stored of its prompt; None where nothing of it may be saved or loaded.
        prompt_tokens: of its prompt.
        may_load: whether stored tokens may be used.
        identity: salt and extra of its contexts.
        arrived_s: when it came, on `time.monotonic`.
        local: tokens that vLLM has, as of the last question.
        is_trial: whether the load that the last answer meant does not pay by what is known.
        is_exact: whether what it computes is exact; None until it is scheduled.
        marked: how many of its blocks are noted in `Exactness`.
        saved: up to where it is stored, or was given to be; None until that is known.
        outcome: what was counted of its lookup.
    """

    answer: Answer | None
    prompt_tokens: int
    may_load: bool
    identity: RequestIdentity | None
    arrived_s: float
    local: int = 0
    is_trial: bool = False
    is_exact: bool | None = None
    marked: int = 0
    saved: int | None = None
    outcome: str = ""


class Exactness:
    """Which blocks hold lossily loaded KV, or what was computed on top of it.

    A block is noted whenever it is written, so what it held before does not matter.
    """

    def __init__(self) -> None:
        """Start with exact blocks only."""
        self._inexact: set[int] = set()

    def note(self, blocks: Iterable[int], *, is_exact: bool) -> None:
        """Note that blocks are written."""
        if is_exact:
            self._inexact.difference_update(blocks)
        else:
            self._inexact.update(blocks)
            self._inexact.discard(NULL_BLOCK)

    def are_exact(self, blocks: Sequence[int]) -> bool:
        """Whether all of them are."""
        return self._inexact.isdisjoint(blocks)


class Names:
    """The chunks that were given to be saved, so that none is twice.

    One that is not found though it was saved has been evicted, and is saved again.
    """

    def __init__(self) -> None:
        """Start without."""
        self._saved_s: OrderedDict[bytes, float] = OrderedDict()

    def add(self, names: Iterable[bytes]) -> None:
        """Note chunks that are to be saved; of too many the oldest are forgotten."""
        for name in names:
            self._saved_s[name] = math.inf
        while len(self._saved_s) > _MOST_NAMES:
            self._saved_s.popitem(last=False)

    def saved(self, names: Iterable[bytes], *, now_s: float) -> None:
        """Note that chunks are stored."""
        for name in names:
            if name in self._saved_s:
                self._saved_s[name] = now_s

    def has(self, name: bytes, *, asked_s: float) -> bool:
        """Whether a chunk that was not there at that time needs no saving all the same."""
        return self._saved_s.get(name, -math.inf) > asked_s

    def remove(self, names: Iterable[bytes]) -> None:
        """Forget chunks that were not saved after all."""
        for name in names:
            self._saved_s.pop(name, None)

    def clear(self) -> None:
        """Forget all."""
        self._saved_s.clear()
