from __future__ import annotations

from itertools import combinations

from cachegen.engines.vllm.config import read_config
from cachegen.engines.vllm.identity.request import RequestIdentity
from cachegen.engines.vllm.tenants import of_connector

NOBODY = RequestIdentity()


def joined(*, salt: str = "", namespace: str = "", request=NOBODY) -> RequestIdentity:
    config = read_config({"store": "s", "salt": salt, "namespace": namespace})
    return of_connector(request, config)


def test_without_settings_contexts_are_those_of_other_engines() -> None:
    assert joined() == RequestIdentity()
    request = RequestIdentity(b"tenant", b"media")
    assert joined(request=request) == request
    assert joined(salt="tenant") == RequestIdentity(b"tenant")
    assert joined(namespace="staging").extra == b"staging"


def test_whoever_differs_in_anything_is_somebody_else() -> None:
    salts = ["", "a", "b", "ab", "a\0b"]
    found = [
        joined(salt=outer, request=RequestIdentity(inner.encode())).salt
        for outer in salts
        for inner in salts
        if outer and inner
    ]
    found += [joined(salt=outer).salt for outer in salts]
    assert all(left != right for left, right in combinations(found, 2))
