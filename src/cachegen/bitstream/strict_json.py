"""A reader of JSON that may be hostile: it checks type and range of every value."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from cachegen.errors import BitstreamError

_DIGEST = re.compile(r"[0-9a-f]{64}")


class Fields:
    """One JSON object with exactly these keys; every failure names the path to the value.

    Args:
        value: what should be the object.
        path: where it stands in the document.
        keys: the keys it must have.
    """

    def __init__(self, value: object, path: str, keys: tuple[str, ...]) -> None:
        """Check the keys."""
        if not isinstance(value, dict):
            raise BitstreamError(f"expected an object, got {_kind(value)}", field=path)
        if set(value) != set(keys):
            raise BitstreamError(
                f"expected the keys {sorted(keys)}, got {str(sorted(value))[:200]}", field=path
            )
        self._values: dict[str, Any] = value
        self._path = path

    def fail(self, name: str, message: str) -> NoReturn:
        """Raise the error of a value."""
        raise BitstreamError(message, field=f"{self._path}.{name}")

    def integer(self, name: str, *, low: int, high: int) -> int:
        """An integer within its limits."""
        value = self._values[name]
        if type(value) is not int or not low <= value <= high:
            self.fail(name, f"expected an integer from {low} to {high}, got {_show(value)}")
        return value

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self._values[name]
        if type(value) is not bool:
            self.fail(name, f"expected true or false, got {_show(value)}")
        return value

    def text(self, name: str, pattern: re.Pattern[str]) -> str:
        """A string that matches a pattern as a whole."""
        value = self._values[name]
        if type(value) is not str or not pattern.fullmatch(value):
            self.fail(name, f"expected a string like {pattern.pattern}, got {_show(value)}")
        return value

    def digest(self, name: str) -> bytes:
        """32 bytes in lower-case hexadecimal."""
        return bytes.fromhex(self.text(name, _DIGEST))

    def items(self, name: str) -> Iterator[tuple[object, str]]:
        """The items of a list that is not empty, each with its path."""
        value = self._values[name]
        if type(value) is not list or not value:
            self.fail(name, f"expected a list with at least one item, got {_kind(value)}")
        return ((item, f"{self._path}.{name}[{index}]") for index, item in enumerate(value))


def to_canonical(value: object) -> bytes:
    """The one way to write a value: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def read_canonical(data: bytes, *, field: str) -> object:
    """The value of a document that is written the one way.

    Raises:
        BitstreamError: no JSON, or JSON written in another way.
    """
    try:
        value = json.loads(data, parse_float=_refuse, parse_constant=_refuse)
        same = to_canonical(value) == data
    except (ValueError, RecursionError) as error:
        raise BitstreamError(f"not a JSON document of ours: {error}", field=field) from error
    if not same:
        raise BitstreamError(
            "not canonical: keys must be sorted, single and without spaces between", field=field
        )
    return value


def _refuse(number: str) -> NoReturn:
    raise ValueError(f"expected integers only, got {number[:20]}")


def _kind(value: object) -> str:
    return "nothing" if value in (None, []) else type(value).__name__


def _show(value: object) -> str:
    return repr(value)[:80] if isinstance(value, int | str | float) else _kind(value)
