"""What a long calibration has done so far, on disk: a run that was cut off goes on from there.

One safetensors file for each phase, written beside its place and moved there whole. A file names
the inputs that it was made from and the hash of what it holds; any other is as good as none.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

_FORMAT = "cachegen-checkpoint-1"
PHASES = (
    *("features", "moments", "rows", "statistics", "transform"),
    *("levels", "lengths", "tables"),
)
# Writing takes at most a twentieth of the time, and where it is quick a cut costs 10 s at most.
# Arbitrary: 5 to 60 s, and 10 to 50, do.
_LEAST_S = 10.0
_SPARING = 20
_READ_ERRORS = (SafetensorError, OSError, ValueError, LookupError, TypeError)


@dataclass(frozen=True, slots=True, eq=False)
class Saved:
    """Arrays by name, and what goes into JSON."""

    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)


class Checkpoint:
    """The files of one calibration.

    Args:
        folder: where they are; made when needed. None keeps nothing.
        inputs: a digest of everything that decides the result; of other inputs nothing is read.
        tell: told, in words, what is taken up again, what cannot be, and what cannot be kept.
    """

    def __init__(
        self,
        folder: Path | None,
        inputs: bytes = b"",
        *,
        tell: Callable[[str], None] = lambda message: None,
    ) -> None:
        self.folder = folder
        self._inputs = inputs.hex()
        self._tell = tell
        self._saved_at_s, self._took_s = time.monotonic(), 0.0
        self._works = True

    def load(self, phase: str) -> Saved | None:
        """What was kept of a phase; None where nothing usable was."""
        if self.folder is None or not self._path(phase).exists():
            return None
        try:
            found, inputs = _read(self._path(phase))
        except _READ_ERRORS as exc:
            self._tell(f"{self._path(phase)} is damaged and left out: {exc}")
            return None
        if inputs != self._inputs:
            self._tell(
                f"{self._path(phase)} belongs to other inputs (model, texts, options or version) "
                "and is left out; it will be replaced"
            )
            return None
        return found

    def state(self, phase: str) -> Mapping[str, Any] | None:
        """What was kept of a phase beside arrays, which are neither read nor checked; or None."""
        if self.folder is None or not self._path(phase).exists():
            return None
        try:
            with safe_open(self._path(phase), framework="numpy") as file:
                metadata = file.metadata() or {}
            found: dict[str, Any] = json.loads(metadata["state"])
        except _READ_ERRORS:
            return None
        fits = metadata.get("format") == _FORMAT and metadata.get("inputs") == self._inputs
        return found if fits else None

    def is_due(self) -> bool:
        """Whether enough time has passed since the last save for the next one to be cheap."""
        waited_s = time.monotonic() - self._saved_at_s
        return self.folder is not None and waited_s >= max(_LEAST_S, _SPARING * self._took_s)

    def save(self, phase: str, saved: Saved) -> bool:
        """Keep this of a phase, in place of what was kept of it before; whether it is kept.

        A phase of many parts has a file for each, named `PHASE-NUMBER`.

        Where that fails the run goes on, what was kept before stays, and it is said once that
        nothing more will be kept.
        """
        if self.folder is None or not self._works:
            return False
        began_s = time.monotonic()
        try:
            self.folder.mkdir(exist_ok=True)
            _write(self._path(phase), saved, self._inputs)
        except OSError as exc:
            self._works = False
            self._tell(f"progress is not kept, an interruption would lose it: {exc}")
        self._saved_at_s = time.monotonic()
        self._took_s = self._saved_at_s - began_s
        return self._works

    def drop(self, *phases: str) -> None:
        """Forget phases; all of them, and the folder goes too."""
        if self.folder is None or not self.folder.is_dir():
            return
        for phase in phases:
            numbered = self.folder.glob(f"{phase}-*.safetensors")
            for path in (self._path(phase), *numbered):
                path.unlink(missing_ok=True)
                _partial(path).unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _path(self, phase: str) -> Path:
        assert self.folder is not None and phase.partition("-")[0] in PHASES
        return self.folder / f"{phase}.safetensors"


def _partial(path: Path) -> Path:
    return path.with_suffix(".part")


def _write(path: Path, saved: Saved, inputs: str) -> None:
    arrays = {name: np.ascontiguousarray(one) for name, one in saved.arrays.items()}
    state = json.dumps(dict(saved.state))
    described = {"format": _FORMAT, "inputs": inputs, "state": state}
    metadata = {**described, "digest": _digest(arrays, state)}
    part = _partial(path)
    try:
        save_file(arrays, part, metadata=metadata)
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except SafetensorError as exc:
        raise OSError(str(exc)) from exc
    finally:
        part.unlink(missing_ok=True)


def _read(path: Path) -> tuple[Saved, str]:
    """The file's content and the inputs it names.

    Raises:
        ValueError: not a checkpoint of this version, or not what was written.
    """
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != _FORMAT:
            raise ValueError(f"expected {_FORMAT!r}, got {metadata.get('format')!r}")
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if metadata["digest"] != _digest(arrays, metadata["state"]):
        raise ValueError("its content is not what was written")
    return Saved(arrays, json.loads(metadata["state"])), metadata["inputs"]


def _digest(arrays: Mapping[str, np.ndarray], state: str) -> str:
    """XXH3-128 of the names, types, shapes and bytes of the arrays, and of the state."""
    found = xxhash.xxh3_128(state.encode())
    for name in sorted(arrays):
        array = arrays[name]
        found.update(f"{name} {array.dtype} {array.shape} ".encode())
        found.update(array.reshape(-1).view(np.uint8).data)
    return found.hexdigest()
