"""Tenants of a server: their tokens, quotas and namespaces."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FIELDS = {"name", "token", "token_sha256", "salt", "quota_mb", "operator"}


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant; no other one can read its objects.

    Attributes:
        name: for logs.
        namespace: first segment of all its keys in the store; empty without tenants.
        token_sha256: digest of its bearer token.
        quota_bytes: the most that its objects together may take; None: no limit.
        operator: whether it may read the metrics, which cover all tenants.
    """

    name: str
    namespace: str = ""
    token_sha256: bytes = b""
    quota_bytes: int | None = None
    operator: bool = False


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
        digest = hashlib.sha256(_token(authorization)).digest()
        found = None
        for tenant in self.known:
            if hmac.compare_digest(tenant.token_sha256, digest):
                found = tenant
        return found

    @property
    def have_quotas(self) -> bool:
        """Whether any tenant has a quota."""
        return any(tenant.quota_bytes is not None for tenant in (*self.known, self.anonymous))

    @property
    def namespaces(self) -> frozenset[str]:
        """The namespaces of all tenants."""
        return frozenset(tenant.namespace for tenant in self.known)


def anonymous(quota_bytes: int | None) -> Tenants:
    """Every client is one tenant, with this quota."""
    return Tenants(anonymous=Tenant("anonymous", quota_bytes=quota_bytes, operator=True))


def read_tenants(path: Path, *, quota_bytes: int | None) -> Tenants:
    """The tenants of a TOML or JSON file: a list ``tenants`` of tables.

    Each has ``name``, ``salt`` and ``token`` or ``token_sha256`` (hexadecimal), and may have
    ``quota_mb`` (by default ``quota_bytes`` for each) and ``operator``.

    Raises:
        ValueError: the file has another form, or names or tokens occur twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        entries = content["tenants"]
        tenants = tuple(_tenant(entry, quota_bytes=quota_bytes) for entry in entries)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: expected a list of tenants, got {_reason(error)}") from error
    for what in ("name", "namespace", "token_sha256"):
        _check_distinct([getattr(tenant, what) for tenant in tenants], what=what, path=path)
    if not tenants:
        raise ValueError(f"{path}: expected at least one tenant, got none")
    return Tenants(tenants)


def _tenant(entry: Mapping[str, Any], *, quota_bytes: int | None) -> Tenant:
    name, salt = str(entry["name"]), str(entry["salt"])
    if unknown := set(entry) - _FIELDS:
        raise ValueError(f"unknown fields {sorted(unknown)} of {name!r}")
    if not salt or ("token" in entry) == ("token_sha256" in entry) or entry.get("token") == "":
        raise ValueError(f"{name!r} without a salt and either token or token_sha256")
    if "token" in entry:
        digest = hashlib.sha256(str(entry["token"]).encode()).digest()
    else:
        digest = bytes.fromhex(entry["token_sha256"])
    if len(digest) != hashlib.sha256().digest_size:
        raise ValueError(f"{name!r} with a token_sha256 of {len(digest)} bytes")
    if "quota_mb" in entry:
        quota_bytes = int(float(entry["quota_mb"]) * 1e6)
    return Tenant(name, _namespace(name, salt), digest, quota_bytes, entry.get("operator") is True)


def _namespace(name: str, salt: str) -> str:
    """A name of a folder that does not tell the tenant's name to those without the salt."""
    tag = f"cachegen namespace {name}".encode()
    return "t-" + hmac.digest(salt.encode(), tag, "sha256")[:16].hex()


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


def _check_distinct(values: Iterable[object], *, what: str, path: Path) -> None:
    found = list(values)
    if len(set(found)) < len(found):
        raise ValueError(f"{path}: expected tenants of different {what}s, got one twice")


def _reason(error: Exception) -> str:
    return f"no field {error}" if isinstance(error, KeyError) else str(error)
