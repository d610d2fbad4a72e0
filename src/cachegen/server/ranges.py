"""The Range header: one range of bytes, as `a-b`, `a-` or `-n`."""

from __future__ import annotations

import re

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class RangeBehindEnd(Exception):
    """A range that starts behind the end of an object of `size_bytes`."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"expected a range that starts before byte {size_bytes}")
        self.size_bytes = size_bytes


def span_of(header: str | None, size_bytes: int) -> tuple[int, int]:
    """The bytes (start, stop) of an object to send; all of them for a header of any other form.

    Raises:
        RangeBehindEnd: none of the range exists.
    """
    found = _RANGE.fullmatch(header or "")
    if found is None or found.group(1) == found.group(2) == "":
        return 0, size_bytes
    first, last = found.groups()
    if not first:
        start, stop = max(size_bytes - int(last), 0), size_bytes
    else:
        start, stop = int(first), min(int(last or size_bytes) + 1, size_bytes)
    if last and first and int(last) < int(first):
        return 0, size_bytes
    if start >= stop:
        raise RangeBehindEnd(size_bytes)
    return start, stop
