from __future__ import annotations

import asyncio
import json

import pytest

from cachegen.server.access_log import AccessLog
from cachegen.server.metrics import Metrics
from cachegen.server.objects.index import Index


async def _answer(scope, receive, send) -> None:
    scope["tenant"] = "a"
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await send({"type": "http.response.body", "body": b"none"})


@pytest.mark.parametrize("character", ["x", "\x01", "\N{SNOWMAN}", '"'])
def test_a_line_has_a_length(capsys: pytest.CaptureFixture[str], character: str) -> None:
    """Whatever a client sends as method and path, of up to 64 KiB."""
    index = Index(namespaces=frozenset())
    log = AccessLog(_answer, Metrics(index), logs=True)
    scope = {"type": "http", "method": character * 60_000, "path": f"/{character * 60_000}"}

    async def nothing() -> dict[str, object]:
        return {"type": "http.request", "body": b""}

    async def ignored(message: object) -> None:
        pass

    asyncio.run(log(scope, nothing, ignored))
    (line,) = capsys.readouterr().err.splitlines()
    assert len(line) < 4096
    said = json.loads(line)
    assert (said["tenant"], said["status"], said["sent_bytes"]) == ("a", 404, 4)
    assert len(said["path"]) == 513
    index.close()
