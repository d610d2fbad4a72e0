"""The file of tenants: TOML or JSON, every field checked, every mistake named."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import re
import stat
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from cachegen.server.tenants import Tenant, Tenants

_LOG = logging.getLogger("cachegen.server")
# A bound on the time of a request, which compares its token with each: 10,000 take 2 ms.
_MAX_TENANTS = 10_000
# A bound on memory: the most tenants, each with 400 bytes of fields.
_MAX_FILE_BYTES = 4 << 20
# Arbitrary: 64 to 1,000 do; names are for logs, where they stand in every line.
_MAX_NAME = 100
# Arbitrary: 256 to 8,192 do; a request's head has room for 64 KiB.
_MAX_TOKEN = 4096
# A bound that keeps sums exact: 10^18 bytes are below 2^63, the largest number of an index.
_MAX_QUOTA_MB = 1e12
_MAX_OBJECTS = 10**15
_TOKEN = re.compile(r"[!-~]+")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_EMPTY = hashlib.sha256(b"").hexdigest()


class _Mistake(Exception):
    """What was expected of a field and what came."""


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of a tenant: what is expected in words, and what reads it."""

    expected: str
    read: Callable[[Any], Any]


def read_tenants(
    path: Path, *, quota_bytes: int | None, quota_objects: int | None = None
) -> Tenants:
    """The tenants of a TOML or JSON file: a list ``tenants`` of tables.

    Each has ``name``, ``salt`` and ``token`` or ``token_sha256`` (hexadecimal), and may have
    ``quota_mb`` and ``quota_objects`` (by default ``quota_bytes`` and ``quota_objects`` for each)
    and ``operator``. A warning says where others than the owner's group can read the file.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file has another form, or names or tokens occur twice.
    """
    try:
        with path.open("rb") as file:
            _warn_of_readers(path, file)
            entries = _entries(file, is_json=path.suffix == ".json")
        found = [_fields(entry, number) for number, entry in enumerate(entries, 1)]
        for what in ("name", "token_sha256"):
            _check_distinct(found, what)
    except _Mistake as error:
        raise ValueError(f"{path}: {error}") from None
    return Tenants(
        tuple(
            _tenant(fields, quota_bytes=quota_bytes, quota_objects=quota_objects)
            for fields in found
        )
    )


def _entries(file: BinaryIO, *, is_json: bool) -> Sequence[object]:
    content = file.read(_MAX_FILE_BYTES + 1)
    if len(content) > _MAX_FILE_BYTES:
        raise _Mistake(f"expected at most {_MAX_FILE_BYTES} bytes, got more")
    parsed = _parsed(content, is_json=is_json)
    if not isinstance(parsed, dict) or not isinstance(parsed.get("tenants"), list):
        raise _Mistake("expected a list of tenants under 'tenants', got something else")
    if len(parsed) > 1:
        raise _Mistake(f"expected a list of tenants only, got {_others(parsed, {'tenants'})} too")
    entries: list[object] = parsed["tenants"]
    if not 1 <= len(entries) <= _MAX_TENANTS:
        raise _Mistake(
            f"expected at least one tenant and at most {_MAX_TENANTS}, got {len(entries) or 'none'}"
        )
    return entries


def _parsed(content: bytes, *, is_json: bool) -> object:
    kind = "JSON" if is_json else "TOML"
    try:
        text = content.decode("utf-8")
        if not is_json:
            return tomllib.loads(text)
        return json.loads(text, object_pairs_hook=_without_twins)
    except RecursionError:
        raise _Mistake(f"expected {kind} with a list of tenants, got one too deep") from None
    except ValueError as error:
        raise _Mistake(f"expected {kind} with a list of tenants, got {error}") from None


def _without_twins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twin, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"{_shown(twin)} twice in one table")
    return found


def _fields(entry: object, number: int) -> dict[str, Any]:
    """The fields of a tenant, checked; a token's digest in place of the token."""
    if not isinstance(entry, dict):
        raise _Mistake(f"tenant {number}: expected a table, got {_kind(entry)}")
    who = f"tenant {number}"
    if isinstance(entry.get("name"), str):
        who += f" ({_shown(entry['name'])})"
    if unknown := _others(entry, _FIELDS):
        raise _Mistake(f"{who}: expected no other fields than {', '.join(_FIELDS)}; got {unknown}")
    missing = [key for key in ("name", "salt") if key not in entry]
    if missing or ("token" in entry) == ("token_sha256" in entry):
        raise _Mistake(
            f"{who}: expected a name, a salt and either token or token_sha256; got "
            f"{', '.join(sorted(entry)) or 'nothing'}"
        )
    fields: dict[str, Any] = {key: _field(value, key, who) for key, value in entry.items()}
    if "token" in fields:
        fields["token_sha256"] = hashlib.sha256(fields.pop("token")).digest()
    return fields


def _field(value: object, key: str, who: str) -> object:
    field = _FIELDS[key]
    try:
        return field.read(value)
    except _Mistake as error:
        raise _Mistake(f"{who}: {key}: expected {field.expected}, got {error}") from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _Mistake(_kind(value))
    if not value:
        raise _Mistake("an empty string")
    return value


def _name(value: object) -> str:
    name = _text(value)
    if len(name) > _MAX_NAME:
        raise _Mistake(f"{len(name)} characters")
    if not name.isprintable():
        raise _Mistake(_shown(name))
    return name


def _salt(value: object) -> str:
    salt = _text(value)
    try:
        salt.encode()
    except UnicodeEncodeError:
        raise _Mistake("half of a surrogate pair") from None
    return salt


def _token(value: object) -> bytes:
    """A token as a request can bring it; what is said of a wrong one does not show it."""
    token = _text(value)
    if len(token) > _MAX_TOKEN:
        raise _Mistake(f"{len(token)} characters")
    if _TOKEN.fullmatch(token) is None:
        raise _Mistake("one that no request can bring")
    return token.encode()


def _digest(value: object) -> bytes:
    digits = _text(value)
    if _SHA256.fullmatch(digits) is None:
        raise _Mistake(f"{len(digits)} characters, or others")
    if digits.lower() == _EMPTY:
        raise _Mistake("that of no token at all")
    return bytes.fromhex(digits)


def _quota_mb(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Mistake(_kind(value))
    if not 0 <= value <= _MAX_QUOTA_MB:
        raise _Mistake(_beyond(value))
    return int(value * 1e6)


def _quota_objects(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _Mistake(_kind(value))
    if not 0 <= value <= _MAX_OBJECTS:
        raise _Mistake(_beyond(value))
    return value


def _beyond(value: float) -> str:
    """What is said of a number that is no quota; it may have any number of digits."""
    if value < 0:
        return "one below 0"
    return "a larger one" if value > 0 else "no number"


def _operator(value: object) -> bool:
    if not isinstance(value, bool):
        raise _Mistake(_kind(value))
    return value


_FIELDS = {
    "name": _Field(f"1 to {_MAX_NAME} printable characters", _name),
    "salt": _Field("a string that is not empty", _salt),
    "token": _Field(f"1 to {_MAX_TOKEN} characters of printable ASCII without spaces", _token),
    "token_sha256": _Field("64 hexadecimal digits, the SHA-256 of a token", _digest),
    "quota_mb": _Field(
        f"a number from 0 to {_MAX_QUOTA_MB:g} (leave it out for no limit)", _quota_mb
    ),
    "quota_objects": _Field(
        f"a whole number from 0 to {_MAX_OBJECTS} (leave it out for no limit)", _quota_objects
    ),
    "operator": _Field("true or false", _operator),
}


def _tenant(
    fields: Mapping[str, Any], *, quota_bytes: int | None, quota_objects: int | None
) -> Tenant:
    return Tenant(
        fields["name"],
        _namespace(fields["name"], fields["salt"]),
        fields["token_sha256"],
        fields.get("quota_mb", quota_bytes),
        fields.get("operator", False),
        fields.get("quota_objects", quota_objects),
    )


def _namespace(name: str, salt: str) -> str:
    """A name of a folder that does not tell the tenant's name to those without the salt."""
    tag = f"cachegen namespace {name}".encode()
    return "t-" + hmac.digest(salt.encode(), tag, "sha256")[:16].hex()


def _check_distinct(found: Sequence[Mapping[str, Any]], what: str) -> None:
    """Names make namespaces, so that tenants of different names share none."""
    first: dict[object, str] = {}
    for fields in found:
        if fields[what] in first:
            raise _Mistake(
                f"expected tenants of different {what}s, got one twice: of "
                f"{_shown(first[fields[what]])} and {_shown(fields['name'])}"
            )
        first[fields[what]] = fields["name"]


def _warn_of_readers(path: Path, file: BinaryIO) -> None:
    mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    if mode & stat.S_IRWXO:
        _LOG.warning(
            "%s: expected a file for its owner and group only, got mode %03o: everybody on this "
            "machine can read or change tokens and salts; chmod o= it",
            path,
            mode,
        )


def _others(table: Mapping[str, object], known: Mapping[str, object] | set[str]) -> str:
    return ", ".join(sorted(_shown(key) for key in table if key not in known)[:5])


def _kind(value: object) -> str:
    return {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "a list",
        dict: "a table",
        type(None): "null",
    }.get(type(value), "a date or time")


def _shown(text: str) -> str:
    return ascii(text[:_MAX_NAME])
