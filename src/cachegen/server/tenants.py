"""Tenants of a server: who a token names, and which namespace and quotas each has."""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant; no other one can read its objects.

    Attributes:
        name: for logs.
        namespace: first segment of all its keys in the store; empty without tenants.
        token_sha256: digest of its bearer token.
        quota_bytes: the most that its objects together may take; None: no limit.
        operator: whether it may read the metrics, which cover all tenants.
        quota_objects: the most objects that it may have; None: no limit.
    """

    name: str
    namespace: str = ""
    token_sha256: bytes = b""
    quota_bytes: int | None = None
    operator: bool = False
    quota_objects: int | None = None


@dataclass(frozen=True, slots=True)
class Tenants:
    """All tenants; without any every client is the anonymous one, without a token."""

    known: tuple[Tenant, ...] = ()
    anonymous: Tenant = Tenant("anonymous", operator=True)

    def find(self, authorization: str | None) -> Tenant | None:
        """The tenant of an Authorization header; None where the token is missing or wrong.

        The token is compared with every tenant's, in constant time, so that the time taken tells
        nothing about them.
        """
        if not self.known:
            return self.anonymous
        token = _token(authorization)
        digest = hashlib.sha256(token).digest()
        found = None
        for tenant in self.known:
            if hmac.compare_digest(tenant.token_sha256, digest):
                found = tenant
        return found if token else None

    @property
    def have_quotas(self) -> bool:
        """Whether any tenant has a quota."""
        return any(
            quota is not None
            for tenant in (*self.known, self.anonymous)
            for quota in (tenant.quota_bytes, tenant.quota_objects)
        )

    @property
    def namespaces(self) -> frozenset[str]:
        """The namespaces of all tenants."""
        return frozenset(tenant.namespace for tenant in self.known)


def anonymous(quota_bytes: int | None, *, quota_objects: int | None = None) -> Tenants:
    """Every client is one tenant, with these quotas."""
    return Tenants(
        anonymous=Tenant(
            "anonymous", quota_bytes=quota_bytes, operator=True, quota_objects=quota_objects
        )
    )


def _token(authorization: str | None) -> bytes:
    """The token of ``Bearer TOKEN``, or of ``Basic`` with the token as its password."""
    kind, _, value = (authorization or "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip().encode()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except ValueError:
            return b""
    return b""
