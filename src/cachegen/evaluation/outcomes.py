"""Outcomes on disk, a line each: a run that was cut off goes on behind the last whole one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cachegen.evaluation.judge import Outcome

_FORMAT = "cachegen-outcomes-1"


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """What was measured: a level of a method on a case."""

    method: str
    level: str
    dataset: str
    case: str


class Outcomes:
    """The outcomes of one evaluation.

    Attributes:
        found: by what was measured, those of earlier runs too.
    """

    def __init__(self, path: Path, inputs: Mapping[str, Any]) -> None:
        """Read what is there.

        Args:
            path: of the file; made when the first outcome is added.
            inputs: all that decides an outcome, beside its key.

        Raises:
            ValueError: the file is of other inputs, or is none of this kind.
        """
        self._path, self._inputs = path, dict(inputs)
        self.found: dict[Key, Outcome] = {}
        if path.exists():
            self._read()

    def add(self, key: Key, outcome: Outcome) -> None:
        """Keep one more."""
        is_new = not self._path.exists()
        with self._path.open("a", encoding="utf-8") as file:
            if is_new:
                file.write(json.dumps({"format": _FORMAT, "inputs": self._inputs}) + "\n")
            file.write(json.dumps(asdict(key) | asdict(outcome)) + "\n")
        self.found[key] = outcome

    def _read(self) -> None:
        whole = self._path.read_bytes()
        end = whole.rfind(b"\n") + 1
        lines = whole[:end].decode("utf-8").splitlines()
        described = _json(lines[0]) if lines else {}
        if described.get("format") != _FORMAT:
            if lines:
                raise ValueError(
                    f"expected outcomes of an evaluation in {self._path}, got something else; "
                    "name another --out"
                )
            self._path.unlink()
            return
        self._check(described.get("inputs"))
        names = Key.__dataclass_fields__
        for number, line in enumerate(lines[1:], start=2):
            entry = _json(line)
            try:
                key = Key(**{name: entry.pop(name) for name in names})
                self.found[key] = Outcome(**entry)
            except (KeyError, TypeError) as exc:
                raise ValueError(f"{self._path}, line {number}: no outcome: {exc!r}") from exc
        if end < len(whole):  # a line that was cut off
            with self._path.open("r+b") as file:
                file.truncate(end)

    def _check(self, inputs: Any) -> None:
        """Refuse outcomes of other inputs: they are not comparable."""
        known = inputs if isinstance(inputs, dict) else {}
        names = known.keys() | self._inputs.keys()
        differ = sorted(name for name in names if known.get(name) != self._inputs.get(name))
        if differ:
            raise ValueError(
                f"expected outcomes of the same inputs in {self._path}, got another "
                f"{', '.join(differ)}; name another --out, or remove that file"
            )


def _json(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
