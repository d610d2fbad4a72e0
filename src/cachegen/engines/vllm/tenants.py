"""Who may share contexts: the connector's salt and namespace joined with a request's own."""

from __future__ import annotations

import hashlib

from cachegen.engines.vllm.config import ConnectorConfig
from cachegen.engines.vllm.identity.request import RequestIdentity


def of_connector(request: RequestIdentity, config: ConnectorConfig) -> RequestIdentity:
    """A request's identity with what the connector's settings add."""
    return RequestIdentity(
        salt=_joined(config.salt.encode(), request.salt),
        extra=_joined(config.namespace.encode(), request.extra),
    )


def _joined(outer: bytes, inner: bytes) -> bytes:
    """One of them where the other is empty, as other engines would have it; else a digest of both,
    which no single one can be by chance."""
    if not outer or not inner:
        return outer or inner
    digest = hashlib.sha256(b"cachegen vllm joined")
    for part in (outer, inner):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()
