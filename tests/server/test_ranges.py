from __future__ import annotations

import pytest

from cachegen.server.ranges import RangeBehindEnd, span_of


@pytest.mark.parametrize(
    ("header", "span"),
    [
        (None, (0, 10)),
        ("bytes=0-0", (0, 1)),
        ("bytes=2-5", (2, 6)),
        ("bytes=2-", (2, 10)),
        ("bytes=2-100", (2, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-30", (0, 10)),
    ],
)
def test_one_range_in_its_three_forms(header: str | None, span: tuple[int, int]) -> None:
    assert span_of(header, 10) == span


@pytest.mark.parametrize(
    "header",
    ["bytes=5-2", "bytes=-", "bytes=0-1,3-4", "lines=0-1", "bytes=a-b", "bytes=" + "9" * 99],
)
def test_what_is_no_such_range_asks_for_everything(header: str) -> None:
    assert span_of(header, 10) == (0, 10)


@pytest.mark.parametrize(("header", "size"), [("bytes=10-", 10), ("bytes=-0", 10), ("bytes=0-", 0)])
def test_a_range_without_a_byte(header: str, size: int) -> None:
    with pytest.raises(RangeBehindEnd):
        span_of(header, size)
