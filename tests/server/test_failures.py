"""What is said again and again is written some times a minute."""

from __future__ import annotations

import logging

import pytest

from cachegen.server.failures import FewLines
from tests.server.clients import ask, head


def test_lines_of_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now_s = 0.0
    logger, few = logging.getLogger("test.few_lines"), FewLines(clock=lambda: now_s)
    logger.addFilter(few)
    for number in range(1000):
        logger.warning("failed: %d", number)
    assert [record.getMessage() for record in caplog.records] == [
        f"failed: {number}" for number in range(20)
    ]
    caplog.clear()
    now_s = 60.0
    logger.warning("failed: %s", "again")
    logger.warning("failed: %s", "%d")
    assert [record.getMessage() for record in caplog.records] == [
        "failed: again (and 980 more)",
        "failed: %d",
    ]


def test_a_tenant_does_not_fill_the_log(serve, tmp_path) -> None:
    """Each upload beyond the quota, and each broken transfer, would be a line."""
    with serve("--store", tmp_path / "s", "--quota-mb", 0.001, errors=tmp_path / "log") as server:
        for number in range(60):
            sent = head("PUT", f"/{'k' * 150}{number}", "Content-Length: 1001") + bytes(1001)
            assert ask(server, sent).startswith(b"HTTP/1.1 507 ")
    lines = (tmp_path / "log").read_text().splitlines()
    assert 0 < len(lines) <= 20
    assert max(map(len, lines)) < 2000
