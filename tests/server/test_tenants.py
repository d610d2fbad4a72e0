from __future__ import annotations

import base64
import hashlib

import pytest

from cachegen.server.tenants import Tenant, Tenants, anonymous


def sha256(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


FIRST = Tenant("a", "t-1", sha256(b"first"), operator=True)
SECOND = Tenant("b", "t-2", sha256(b"second"), quota_objects=5)
NOBODY = Tenant("c", "t-3", sha256(b""))


@pytest.fixture
def tenants() -> Tenants:
    return Tenants((FIRST, SECOND, NOBODY))


def test_tokens_name_their_tenants(tenants: Tenants) -> None:
    assert tenants.find("Bearer first") == FIRST
    assert tenants.find("bearer second") == SECOND
    assert tenants.find("Basic " + base64.b64encode(b"anyone:first").decode()) == FIRST


@pytest.mark.parametrize(
    "header",
    [
        *(None, "", "Bearer", "Bearer ", "Bearer x", "first", "Basic first", "X first", "Basic"),
        *("Basic " + base64.b64encode(text).decode() for text in (b"", b":", b"anyone:", b"first")),
    ],
)
def test_no_other_header_names_anybody(tenants: Tenants, header: str | None) -> None:
    """Nor does a request without a token name a tenant whose token's digest is that of nothing."""
    assert tenants.find(header) is None


def test_quotas_of_either_kind_are_quotas(tenants: Tenants) -> None:
    assert tenants.have_quotas
    assert anonymous(1).have_quotas
    assert anonymous(None, quota_objects=1).have_quotas
    assert not Tenants((FIRST,)).have_quotas


def test_without_tokens_everybody_is_one() -> None:
    known = anonymous(5, quota_objects=6)
    assert known.find(None) == known.find("Bearer x") == known.anonymous
    assert known.anonymous == Tenant("anonymous", quota_bytes=5, operator=True, quota_objects=6)
