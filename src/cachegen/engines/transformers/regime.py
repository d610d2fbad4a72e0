"""Rotations whose frequencies depend on the length of the text, and what follows from it.

`longrope` has one set of frequencies up to the length the model was first trained on and another
one beyond; a forward pass takes the set by the last position that it sees. So equal tokens have
other keys in a longer text. `dynamic` changes its frequencies with every token beyond that length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from cachegen.engines.transformers.model import plain_model
from cachegen.errors import UnsupportedCache

_TAG = b"frequencies beyond "


@dataclass(frozen=True, slots=True)
class Regime:
    """Which frequencies a text of some length gets.

    Attributes:
        passed: the lengths behind which other frequencies begin, as far as the text is longer.
    """

    passed: tuple[int, ...] = ()

    def extra(self, extra: bytes) -> bytes:
        """What tells this regime's contexts from others', with what else the caller adds."""
        for length in self.passed:
            extra = hashlib.sha256(_TAG + length.to_bytes(8, "little") + extra).digest()
        return extra

    def reach(self, stop: int) -> int:
        """Where a forward pass up to ``stop`` must end, at least, to see these frequencies."""
        return max((stop, *(length + 1 for length in self.passed)))


def regime_of(model: PreTrainedModel, num_tokens: int) -> Regime:
    """The frequencies that a model uses for a text of so many tokens.

    Raises:
        UnsupportedCache: keys would depend on the very length of the text.
    """
    passed = set()
    for kind, length in switches(plain_model(model).config):
        if "dynamic" in kind and num_tokens >= length:
            raise UnsupportedCache(
                f"{num_tokens} tokens: from {length} tokens on this model's rotation ({kind!r}) "
                "changes with every further token, so keys of equal tokens differ from text to "
                f"text: expected a text of fewer than {length} tokens, or a model with a fixed "
                "rotation ('yarn' or 'llama3' scaling, for one)"
            )
        if kind == "longrope" and num_tokens > length:
            passed.add(length)
    return Regime(tuple(sorted(passed)))


def is_length_dependent(model: PreTrainedModel) -> bool:
    """Whether any of the model's rotations is."""
    return any(True for _ in switches(plain_model(model).config))


def switches(config: PreTrainedConfig) -> Iterator[tuple[str, int]]:
    """Kind and length of every rotation of a model's that depends on the length."""
    config = config.get_text_config(decoder=True)
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [entry for entry in parameters.values() if isinstance(entry, Mapping)]
    for entry in nested or [parameters]:
        kind = str(entry.get("rope_type", ""))
        if kind == "longrope" or "dynamic" in kind:
            yield kind, _length(kind, entry, config)


def _length(kind: str, entry: Mapping[str, Any], config: Any) -> int:
    if kind == "longrope" and entry.get("original_max_position_embeddings"):
        return int(entry["original_max_position_embeddings"])
    return int(config.max_position_embeddings)
