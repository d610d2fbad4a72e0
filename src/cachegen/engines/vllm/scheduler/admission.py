"""Which loads may begin: as many as link and decoder carry, and each context once at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

# What failed is not loaded again for so long. Arbitrary: 5 to 120 s do.
_FAILED_FOR_S = 30.0
# After a load that was given up none begins for so long, twice as long after each further one: a
# load that ends within its first bytes does not tell the throughput. So with trials, each of which
# costs up to `TRIAL_SHARE` of a prefill (`worker/worth.py`). Arbitrary: 0.5 to 5 s, and 10 to 120
# s, do.
_HOLD_S, _LONGEST_HOLD_S = 2.0, 60.0
# Only bounds memory. Arbitrary: 64 to 10,000 do.
_MOST_FAILURES = 1000


@dataclass(slots=True)
class _Hold:
    """A pause after what did not pay, ever longer until something does."""

    lasts_s: float = 0.0
    until_s: float = 0.0

    def lengthen(self, now_s: float) -> None:
        self.lasts_s = min(max(2 * self.lasts_s, _HOLD_S), _LONGEST_HOLD_S)
        self.until_s = now_s + self.lasts_s

    def end(self) -> None:
        self.lasts_s = self.until_s = 0.0


@dataclass(slots=True)
class _Load:
    name: bytes
    began_s: float
    load_s: float
    is_trial: bool
    is_under_way: bool = True
    is_wanted: bool = True


@dataclass(slots=True, eq=False)
class Admission:
    """The loads under way.

    Attributes:
        max_loads: that may be under way at once.
    """

    max_loads: int
    _loads: dict[str, _Load] = field(default_factory=dict)
    _failed_s: dict[bytes, float] = field(default_factory=dict)
    _hold: _Hold = field(default_factory=_Hold)
    _trials: _Hold = field(default_factory=_Hold)

    def is_held(self, *, now_s: float) -> bool:
        """Whether loads do not pay at present."""
        return now_s < self._hold.until_s

    def may_try(self, *, now_s: float) -> bool:
        """Whether a load may begin that does not pay by what is known: one at a time."""
        is_trying = any(load.is_trial and load.is_under_way for load in self._loads.values())
        return not is_trying and now_s >= self._trials.until_s

    def gave_up(self, request_id: str, *, now_s: float) -> None:
        """Note that a load did not pay; a trial that did not holds trials back, not others."""
        (self._trials if self._is_trial(request_id) else self._hold).lengthen(now_s)

    def went_well(self, request_id: str) -> None:
        """Note that a load brought everything."""
        self._hold.end()
        if self._is_trial(request_id):
            self._trials.end()

    @property
    def is_full(self) -> bool:
        """Whether no other may begin."""
        return sum(load.is_under_way for load in self._loads.values()) >= self.max_loads

    def backlog_s(self, now_s: float) -> float:
        """Seconds that those under way still take, one after the other."""
        under_way = (load for load in self._loads.values() if load.is_under_way)
        return sum(max(load.began_s + load.load_s - now_s, 0.0) for load in under_way)

    def is_loading(self, name: bytes, *, beside: str) -> bool:
        """Whether a request other than ``beside`` loads this chunk, or has not used it yet."""
        return any(
            load.name == name and load.is_wanted
            for request_id, load in self._loads.items()
            if request_id != beside
        )

    def begin(
        self, request_id: str, name: bytes, *, now_s: float, load_s: float, is_trial: bool = False
    ) -> None:
        """Note a load whose first chunk has this name."""
        self._loads[request_id] = _Load(name, now_s, load_s, is_trial)

    def loaded(self, request_id: str) -> None:
        """Note that a load has ended."""
        load = self._loads.get(request_id)
        if load is not None:
            load.is_under_way = False
            self._drop(request_id, load)

    def used(self, request_id: str) -> None:
        """Note that vLLM knows the loaded blocks, or that the request has gone."""
        load = self._loads.get(request_id)
        if load is not None:
            load.is_wanted = False
            self._drop(request_id, load)

    def failed(self, request_id: str, *, now_s: float) -> None:
        """Note that a load failed: others do without that chunk for a while."""
        load = self._loads.get(request_id)
        if load is not None:
            load.is_wanted = False
            self._failed_s[load.name] = now_s
            while len(self._failed_s) > _MOST_FAILURES:
                del self._failed_s[next(iter(self._failed_s))]

    def has_failed(self, name: bytes, *, now_s: float) -> bool:
        """Whether a load that began with this chunk failed lately."""
        failed_s = self._failed_s.get(name)
        return failed_s is not None and now_s - failed_s < _FAILED_FOR_S

    def _is_trial(self, request_id: str) -> bool:
        load = self._loads.get(request_id)
        return load is not None and load.is_trial

    def _drop(self, request_id: str, load: _Load) -> None:
        if not (load.is_under_way or load.is_wanted):
            del self._loads[request_id]
