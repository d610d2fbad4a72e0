"""The connector's settings: the keys of vLLM's ``kv_connector_extra_config``."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from cachegen.bitstream.identity import LINK_TOKENS
from cachegen.codec.levels import EXACT_LEVELS, LADDER, SELF_CONTAINED
from cachegen.policy.algorithm1 import Algorithm1
from cachegen.policy.controller import Controller
from cachegen.policy.fixed import Fixed
from cachegen.policy.min_ttft import MinTTFT

POLICIES: Mapping[str, Callable[[], Controller]] = {
    "min_ttft": MinTTFT,
    "algorithm1": Algorithm1,
}
LEVELS = (*LADDER, *(level.name for level in SELF_CONTAINED))
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectorConfig:
    """What a user may set.

    Attributes:
        store: URL or folder of the store, as for `cachegen.open_store`.
        profile: file of the model's profile; None for the one that comes with the package, if any.
        level: what is stored and loaded; None for the profile's default.
        levels: what is stored, if that is more than `level`; with a deadline all of the profile's.
        policy: name of what chooses among the stored levels: `min_ttft` or `algorithm1`.
        slo_s: deadline of a load in seconds from the request's arrival; None for none.
        chunk_tokens: tokens of a chunk, the least that is stored or loaded: a multiple of 64 and of
            vLLM's block size, below the model's windows.
        namespace: keeps contexts apart that would be shared otherwise.
        salt: the tenant of all requests; each request's ``cache_salt`` counts besides.
        inexact: whether what was computed on top of lossily loaded KV is saved, and loaded, too.
        stall_s: seconds of silence after which a transfer fails.
        lookup_s: seconds that a request waits for the store's answer whether it is stored.
        max_loads: loads under way at once; more wait, or are recomputed where that is sooner.
        save_queue_bytes: of KV that waits to be encoded and stored; what comes above is not saved.
        drain_s: seconds for which vLLM's end waits for saves.
        is_saving, is_loading: as ``kv_role`` says.
    """

    store: str
    profile: str | None = None
    level: str | None = None
    levels: tuple[str, ...] | None = None
    policy: str = "min_ttft"
    slo_s: float | None = None
    # A prompt's last, partial chunk is computed: half a chunk on average. 256 is LMCache's, too.
    # Arbitrary: 128 to 1,536 do; every chunk costs a request and a manifest.
    chunk_tokens: int = 256
    namespace: str = ""
    salt: str = ""
    inexact: bool = True
    stall_s: float = 3.0  # as `cachegen.load`
    # Some round trips of a distant store. Arbitrary: 0.2 to 5 s do; it holds up only the request.
    lookup_s: float = 1.0
    # One fetches while another decodes. Arbitrary: 1 to 4 do: a link has no more to give.
    max_loads: int = 2
    save_queue_bytes: int = 1 << 30
    drain_s: float = 5.0
    is_saving: bool = True
    is_loading: bool = True

    @property
    def is_lossless(self) -> bool:
        """Whether only exact levels are loaded."""
        return self.level in EXACT_LEVELS

    @property
    def accepts_inexact(self) -> bool:
        """Whether what was computed on top of lossily loaded KV may be loaded."""
        return self.inexact and not self.is_lossless

    def stored_levels(self, default_level: str) -> tuple[str, ...] | None:
        """The levels to store, given the profile's default; None for the whole ladder."""
        if self.levels is not None:
            return self.levels
        if self.level is None and self.slo_s is not None:
            return None
        return (self.level or default_level,)

    def controller(self) -> Controller:
        """What decides during a load."""
        return POLICIES[self.policy]() if self.level is None else Fixed(self.level)


_GIVEN = tuple(f.name for f in fields(ConnectorConfig) if not f.name.startswith("is_"))


def read_config(extra: Mapping[str, Any], *, role: str | None = "kv_both") -> ConnectorConfig:
    """The settings in a ``kv_connector_extra_config``, and a ``kv_role``.

    Raises:
        ValueError: an unknown key, a value of another kind, a level or policy that does not exist.
    """
    for key in extra:
        if key not in _GIVEN:
            near = difflib.get_close_matches(key, _GIVEN, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(
                f"kv_connector_extra_config: unknown key {key!r}{hint}; known keys are "
                f"{', '.join(_GIVEN)}"
            )
    if not _text(extra, "store"):
        raise ValueError(
            "kv_connector_extra_config: expected 'store', the URL or folder of a store, as in "
            '{"store": "cachegen://cache:8080"}'
        )
    config = ConnectorConfig(
        **{key: _READERS[key](extra, key) for key in extra},
        is_saving=role != "kv_consumer",
        is_loading=role != "kv_producer",
    )
    _check(config)
    return config


def _check(config: ConnectorConfig) -> None:
    for level in (config.level, *(config.levels or ())):
        if level is not None and level not in LEVELS:
            raise ValueError(f"expected a level among {', '.join(LEVELS)}, got {level!r}")
    if config.policy not in POLICIES:
        raise ValueError(f"expected a policy among {', '.join(POLICIES)}, got {config.policy!r}")
    if config.chunk_tokens <= 0 or config.chunk_tokens % LINK_TOKENS:
        raise ValueError(
            f"expected chunk_tokens as a multiple of {LINK_TOKENS}, got {config.chunk_tokens}"
        )
    if config.level and config.slo_s is not None:
        raise ValueError("expected a level or a deadline slo_s, got both")
    if config.level and config.levels and config.level not in config.levels:
        raise ValueError(f"expected the level {config.level!r} among levels, got {config.levels}")


def _value(extra: Mapping[str, Any], key: str, kind: type[Value], what: str) -> Value:
    value = extra.get(key)
    is_right = isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool)
    if not is_right:
        raise ValueError(f"kv_connector_extra_config: expected {key} as {what}, got {value!r}")
    return value  # type: ignore[return-value]


def _text(extra: Mapping[str, Any], key: str) -> str:
    return _value(extra, key, str, "a string") if key in extra else ""


def _optional_text(extra: Mapping[str, Any], key: str) -> str | None:
    return None if extra[key] is None else _text(extra, key)


def _texts(extra: Mapping[str, Any], key: str) -> tuple[str, ...] | None:
    if extra[key] is None:
        return None
    texts = tuple(_value(extra, key, list, "a list of strings"))
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"kv_connector_extra_config: expected {key} as names, got {extra[key]!r}")
    return texts


def _flag(extra: Mapping[str, Any], key: str) -> bool:
    return _value(extra, key, bool, "true or false")


def _count(extra: Mapping[str, Any], key: str) -> int:
    count = _value(extra, key, int, "a positive whole number")
    if count <= 0:
        raise ValueError(f"kv_connector_extra_config: expected {key} above 0, got {count}")
    return count


def _seconds(extra: Mapping[str, Any], key: str) -> float:
    seconds = float(_value(extra, key, int | float, "seconds"))  # type: ignore[arg-type]
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"kv_connector_extra_config: expected {key} of at least 0, got {seconds}")
    return seconds


def _optional_seconds(extra: Mapping[str, Any], key: str) -> float | None:
    return None if extra[key] is None else _seconds(extra, key)


_READERS: Mapping[str, Callable[[Mapping[str, Any], str], Any]] = {
    "store": _text,
    "profile": _optional_text,
    "level": _optional_text,
    "levels": _texts,
    "policy": _text,
    "slo_s": _optional_seconds,
    "chunk_tokens": _count,
    "namespace": _text,
    "salt": _text,
    "inexact": _flag,
    "stall_s": _seconds,
    "lookup_s": _seconds,
    "max_loads": _count,
    "save_queue_bytes": _count,
    "drain_s": _seconds,
}
