"""What vLLM's own steps cost, and what loads cost: learned by workers, used by the scheduler."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field, replace

from cachegen.loading.measurements import Measurements
from cachegen.loading.resources import link_to, measurements_of
from cachegen.policy.costs import Costs
from cachegen.store import Store

# Steps that compute fewer tokens tell nothing of prefilling. The ends of prompts, behind what was
# loaded, are to tell what a step costs at least. Arbitrary: 8 to 32 do.
LEAST_TOKENS = 16
# A process's first steps may load code and allocate memory: this one is not counted. Those of the
# shipped model took as long as later ones (docs/LOG.md, 2026-11-30), of others more is to be
# expected. Arbitrary: 1 to 4 do.
_FIRST_STEPS = 1
# A load that does not pay by what is known is tried now and then, and ended once it has cost this
# share of computing all that it was to bring: with what vLLM needs to begin and end it (10 to 20
# ms), a request is to take at most 1.1 times as long. Beside other work it took 1.12 and 0.96
# times; with 0.05 most trials of the shipped model failed there. Loads that pay by what is known
# are judged no sooner. No floor in seconds: 0.2 s are two fifths of what 4,096 tokens of it take.
TRIAL_SHARE = 0.06
# Samples between two writes of a few kB. Arbitrary: 5 to 100 do.
_SAVE_EVERY = 20


@dataclass(frozen=True, slots=True)
class Prefill:
    """A step that computes tokens of one request only, and how many are before them."""

    num_tokens: int
    past: int


@dataclass(frozen=True, slots=True)
class Learned:
    """What loads and prefills cost.

    Attributes:
        costs: of prefilling by vLLM, of decoding, and of a request to the store.
        bytes_per_s: throughput of the link to the store; None while it is unknown.
    """

    costs: Costs = field(default_factory=Costs)
    bytes_per_s: float | None = None

    def prefill_s(self, num_tokens: int, past: int) -> float | None:
        """Seconds to compute so many tokens behind others; None while unknown."""
        prefill = self.costs.prefill
        return None if prefill is None else prefill.seconds(num_tokens, past=past)

    def slower(self, other: Learned) -> Learned:
        """Of two workers, who work at the same time, the one with the slower link."""
        rates = [known.bytes_per_s for known in (self, other)]
        if None in rates:
            return self if rates[1] is None else other
        return min(self, other, key=lambda known: known.bytes_per_s or 0.0)


class CostBook:
    """The measurements of one worker: vLLM's prefills apart from what loads measure.

    Other engines prefill the same model at other speeds, so prefills have a name of their own.
    """

    def __init__(self, store: Store, fingerprint: bytes, device: str) -> None:
        """Read what was measured before."""
        self._url = store.url
        own = hashlib.sha256(b"vllm prefill" + fingerprint).digest()
        self._prefills = measurements_of(own, device)
        self._loads: Measurements = measurements_of(fingerprint, device)
        self._link = link_to(store.url, self._loads)
        self._added, self._steps = 0, 0
        self._achieved_bytes_per_s = 0.0

    def add_prefill(self, prefill: Prefill, seconds: float) -> None:
        """Add the seconds of a step."""
        self._steps += 1
        if self._steps <= _FIRST_STEPS:
            return
        self._prefills.add_prefill(prefill.num_tokens, prefill.past, seconds)
        self._added += 1

    def add_load(self, size_bytes: int, seconds: float, *, is_whole: bool) -> None:
        """Add a load that nobody dropped: what it achieved counts until one fails."""
        rate = size_bytes / seconds if is_whole and seconds > 0 else 0.0
        self._achieved_bytes_per_s = rate

    @property
    def has_news(self) -> bool:
        """Whether enough was added to be written down."""
        return self._added >= _SAVE_EVERY

    def save(self) -> None:
        """Write the prefills down for the next start."""
        self._added = 0
        self._prefills.save()

    def learned(self) -> Learned:
        """All costs as they are known now."""
        costs = replace(self._loads.costs(self._url), prefill=self._prefills.costs().prefill)
        now_s = time.perf_counter()
        known = self._link.known(now_s)
        # What an earlier run knew counts until this one knows better; a link that was not used for
        # minutes is unknown again, so that a bad one is tried again.
        rate = known[0] if known is not None else self._link.share(now_s, own=0)[0]
        # The estimate is of the last tenths of a second: one late answer makes a link of small
        # objects look many times slower than whole loads were over it.
        return Learned(costs, None if rate is None else max(rate, self._achieved_bytes_per_s))
