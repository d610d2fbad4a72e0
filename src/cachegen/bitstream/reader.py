"""A reader of fields, one after another, from bytes that may be hostile."""

from __future__ import annotations

from typing import NoReturn, TypeVar

from cachegen.errors import BitstreamError

Choice = TypeVar("Choice")


class ByteReader:
    """A cursor over bytes; every failure names the field and its offset.

    Args:
        data: what may be read.
        offset: where to begin.
    """

    def __init__(self, data: memoryview | bytes, offset: int = 0) -> None:
        """Begin at `offset`."""
        self._data = data
        self._next = offset
        self._field_offset = offset

    @property
    def offset(self) -> int:
        """Where the next field begins."""
        return self._next

    def fail(self, message: str, field: str, *, skip: int = 0) -> NoReturn:
        """Raise the error of what was read last, or of what lies `skip` bytes into it."""
        raise BitstreamError(message, field=field, offset=self._field_offset + skip)

    def take(self, size: int, field: str) -> bytes:
        """The next `size` bytes."""
        self._field_offset = self._next
        left = len(self._data) - self._next
        if size > left:
            self.fail(f"expected {size} bytes, only {left} are left", field)
        self._next += size
        return bytes(self._data[self._field_offset : self._next])

    def unsigned(self, width: int, field: str, *, low: int = 0, high: int | None = None) -> int:
        """A little-endian unsigned integer of `width` bytes within its limits."""
        value = int.from_bytes(self.take(width, field), "little")
        if value < low:
            self.fail(f"expected at least {low}, got {value}", field)
        if high is not None and value > high:
            self.fail(f"expected at most {high}, got {value}", field)
        return value

    def choice(self, field: str, choices: tuple[Choice, ...]) -> Choice:
        """What a byte stands for."""
        index = self.unsigned(1, field)
        if index >= len(choices):
            self.fail(f"expected a number below {len(choices)}, got {index}", field)
        return choices[index]

    def zeros(self, size: int, field: str) -> None:
        """Pass over bytes that must be zero."""
        if any(self.take(size, field)):
            self.fail("expected zero bytes", field)
