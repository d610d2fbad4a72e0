"""Tuned constants of the codecs, and other values to try in their places."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib import import_module
from inspect import unwrap
from types import ModuleType
from unittest.mock import patch

_LEARN, _IMPORTANCE = "cachegen.codec.calibration.learn", "cachegen.codec.transform.importance"
_ENGINE = "cachegen.engines.transformers.learning"
HALF_TOLD, NOISE_FLOOR = "features of half the tokens predicted", "noise floor"


@dataclass(frozen=True, slots=True)
class Constant:
    """A number in a module, or the default of a keyword of a function there.

    Attributes:
        module: where it is.
        name: of the number; ``function.keyword`` of a default.
        values: to try, its own among them.
        method: of the coder that it matters to; `HALF_TOLD` where it matters only to models of
            large vocabularies, `NOISE_FLOOR` where to no coder.
    """

    module: str
    name: str
    values: tuple[float, ...]
    method: str = "transform"

    @property
    def own(self) -> float:
        """Its value in the code."""
        holder, name = self._place()
        if isinstance(holder, ModuleType):
            return float(getattr(holder, name))
        return float(holder.__kwdefaults__[name])

    def set_to(self, value: float) -> AbstractContextManager[object]:
        """Within it, the constant has this value."""
        holder, name = self._place()
        number = int(value) if float(value).is_integer() and value >= 1 else value
        if isinstance(holder, ModuleType):
            return patch.object(holder, name, number)
        return _default(holder, name, number)

    def _place(self) -> tuple[object, str]:
        module = import_module(self.module)
        if "." not in self.name:
            return module, self.name
        function, keyword = self.name.split(".")
        return unwrap(getattr(module, function)), keyword


@contextmanager
def _default(function: object, keyword: str, value: float) -> Iterator[None]:
    before = dict(function.__kwdefaults__)
    function.__kwdefaults__[keyword] = value
    try:
        yield
    finally:
        function.__kwdefaults__.update(before)


# Which calibration learns by: the shipped model is learned again with each of them.
LEARNED = (
    Constant(_LEARN, "_LEADING", (32, 64, 128, 256)),
    Constant(_LEARN, "FEATURE_RIDGE", (1e-4, 1e-3, 1e-2)),
    Constant(_IMPORTANCE, "fit.penalty", (1e-4, 1e-3, 1e-2)),
    Constant(_ENGINE, "samples.draws", (1, 2, 4, 8)),
    Constant(_ENGINE, "token_features.max_features", (256, 512, 2048, 1024)),
    Constant(_ENGINE, "_RIDGE", (1e-5, 1e-4, 1e-3), HALF_TOLD),
)
# Which encoding goes by; those of `transform` take a profile whose tokens weigh differently.
CODED = (
    Constant("cachegen.codec.transform.quantisation", "_UNEXPECTED", (1, 2, 4)),
    Constant("cachegen.codec.transform.analysis", "LEADING", (256, 512, 1024)),
    Constant("cachegen.codec.transform.basis", "_REACH", (16, 64, 256)),
    Constant("cachegen.codec.adaptive.triangle", "_STEP", (1.25, 2.5, 5), "adaptive"),
    Constant("cachegen.codec.lossless", "_MAX_TABLES", (16, 32, 64), "lossless"),
    Constant("cachegen.engines.transformers.quality", "_CHANGED", (1e-4, 1e-3, 1e-2), NOISE_FLOOR),
)


def named(constants: Sequence[Constant], only: Sequence[str]) -> tuple[Constant, ...]:
    """Those of these names; all without any."""
    return tuple(one for one in constants if not only or one.name in only)
