"""Results from JSON and to it; what is read is checked against the structures' types."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from cachegen.evaluation.results import Result

_NAMES = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}


def read_result(value: object) -> Result:
    """One run's result from a JSON object.

    Raises:
        ValueError: something is missing, unknown or of another kind; the message says where.
    """
    found: Result = _read(Result, value, "result")
    for index, row in enumerate(found.rows):
        where = f"result.rows[{index}]"
        _within(row.top1, f"{where}.top1")
        for name in ("score", "score_uncompressed"):
            if getattr(row, name) is not None:
                _within(getattr(row, name), f"{where}.{name}")
        if row.bits_per_value <= 0:
            raise ValueError(f"{where}.bits_per_value: expected more than 0")
    for index, one in enumerate(found.slo):
        _within(one.met, f"result.slo[{index}].met")
    return found


def read_results(path: Path) -> tuple[Result, ...]:
    """The results of a file that `to_json` wrote: a list, or a single object.

    Raises:
        ValueError: the file holds something else; the message says where.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON: {error}") from error
    return tuple(read_result(one) for one in (value if isinstance(value, list) else [value]))


def to_json(results: Sequence[Result]) -> str:
    """A JSON list of results.

    Raises:
        ValueError: what is in them could not be read again, such as a number that is none.
    """
    values = [asdict(one) for one in results]
    for value in values:
        read_result(value)
    return json.dumps(values, indent=1, allow_nan=False) + "\n"


def _within(value: float, where: str) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{where}: expected a share from 0 to 1, got {value:g}")


def _read(kind: Any, value: object, where: str) -> Any:
    """A value of a type of the structures."""
    if isinstance(kind, UnionType):
        inner = next(one for one in get_args(kind) if one is not NoneType)
        return None if value is None else _read(inner, value, where)
    if is_dataclass(kind):
        return _read_object(kind, value, where)
    origin = get_origin(kind)
    if origin is tuple:
        return _read_tuple(get_args(kind), value, where)
    if origin is Mapping:
        if not isinstance(value, dict):
            raise _unlike("an object", value, where)
        inner = get_args(kind)[1]
        return {name: _read(inner, one, f"{where}[{name!r}]") for name, one in value.items()}
    return _read_plain(kind, value, where)


def _read_object(kind: Any, value: object, where: str) -> Any:
    if not isinstance(value, dict):
        raise _unlike("an object", value, where)
    known = {one.name: one for one in fields(kind)}
    if unknown := sorted(set(value) - set(known)):
        raise ValueError(f"{where}: unknown {unknown}; known are {sorted(known)}")
    needed = {
        name
        for name, one in known.items()
        if one.default is MISSING and one.default_factory is MISSING
    }
    if missing := sorted(needed - set(value)):
        raise ValueError(f"{where}: {missing} missing")
    hints = get_type_hints(kind)
    return kind(**{name: _read(hints[name], one, f"{where}.{name}") for name, one in value.items()})


def _read_tuple(kinds: tuple[Any, ...], value: object, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _unlike("a list", value, where)
    if kinds[-1] is Ellipsis:
        return tuple(_read(kinds[0], one, f"{where}[{i}]") for i, one in enumerate(value))
    if len(value) != len(kinds):
        raise _unlike(f"{len(kinds)} numbers", value, where)
    return tuple(
        _read(kind, one, f"{where}[{i}]")
        for i, (kind, one) in enumerate(zip(kinds, value, strict=True))
    )


def _read_plain(kind: Any, value: object, where: str) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float and is_number and math.isfinite(value):  # type: ignore[arg-type]
        return float(value)  # type: ignore[arg-type]
    if kind is not float and type(value) is kind:
        return value
    raise _unlike(_NAMES[kind], value, where)


def _unlike(expected: str, value: object, where: str) -> ValueError:
    return ValueError(f"{where}: expected {expected}, got {str(value)[:80]!r}")
