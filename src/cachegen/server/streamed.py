"""A response whose bytes come from a blocking iterator, left unfinished if that fails."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from cachegen.errors import StoreError
from cachegen.server.bodies import Sending
from cachegen.server.shares import Share
from cachegen.store import Buffer

_LOG = logging.getLogger("cachegen.server")


@dataclass(frozen=True, slots=True)
class Content:
    """Status, headers and bytes of a response; `size_bytes` is their number where it is known."""

    status: int
    headers: dict[str, str]
    buffers: Iterator[Buffer]
    size_bytes: int | None = None


class Streamed(Response):
    """Opens a content, sends it and closes it, in threads of a tenant's share.

    A failure during the transfer leaves the response unfinished: the server then drops the
    connection, and the client cannot take a part for the whole.
    """

    def __init__(self, content: AbstractContextManager[Content], share: Share) -> None:
        super().__init__()
        self._content, self._share = content, share

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        with ExitStack() as stack:
            content, first = await self._share.in_thread(_begin, stack, self._content)
            await send(_head(content))
            try:
                if first is not None:
                    await self._send_body(content, first, Sending(send, receive))
            except ClientDisconnect:
                return
            except StoreError as error:
                _LOG.warning("%s: broken off: %s", scope["path"], error)
                return
            await send({"type": "http.response.body", "body": b""})

    async def _send_body(self, content: Content, first: Buffer, sending: Sending) -> None:
        try:
            buffer: Buffer | None = first
            while buffer is not None:
                await sending.send(buffer)
                if sending.sent_bytes == content.size_bytes:
                    return
                buffer = await self._share.in_thread(next, content.buffers, None)
        finally:
            sending.end()


def _begin(
    stack: ExitStack, opening: AbstractContextManager[Content]
) -> tuple[Content, Buffer | None]:
    """Open a content and take its first buffer, in one call: most objects have but one."""
    content = stack.enter_context(opening)
    return content, next(content.buffers, None)


def _head(content: Content) -> Message:
    headers = [(name.encode(), value.encode()) for name, value in content.headers.items()]
    return {"type": "http.response.start", "status": content.status, "headers": headers}
