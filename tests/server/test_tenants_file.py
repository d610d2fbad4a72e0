"""The file of tenants: what it says, and that every mistake is named with tenant and field."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import pytest

from cachegen.server.tenants import Tenants
from cachegen.server.tenants_file import read_tenants

TOML = """
[[tenants]]
name = "a"
token = "first"
salt = "pepper"
operator = true

[[tenants]]
name = "b"
token_sha256 = "{}"
salt = "sugar"
quota_mb = 2.5
quota_objects = 20
""".format(hashlib.sha256(b"second").hexdigest())


def read(folder: Path, content: str | bytes, name: str = "tokens.json") -> Tenants:
    data = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(data)
    (folder / name).chmod(0o640)
    return read_tenants(folder / name, quota_bytes=7, quota_objects=3)


def one(**fields: object) -> str:
    """The content of a file with one tenant; None takes a field away."""
    entry = {"name": "a", "salt": "s", "token": "t", **fields}
    return json.dumps(
        {"tenants": [{key: value for key, value in entry.items() if value is not None}]}
    )


def test_what_a_file_says(tmp_path: Path) -> None:
    tenants = read(tmp_path, TOML, "tokens.toml")
    first, second = tenants.find("Bearer first"), tenants.find("Bearer second")
    assert (first.name, first.operator, first.quota_bytes, first.quota_objects) == ("a", True, 7, 3)
    assert (second.name, second.operator) == ("b", False)
    assert (second.quota_bytes, second.quota_objects) == (2_500_000, 20)
    assert read(tmp_path, one(quota_mb=0)).known[0].quota_bytes == 0


def test_namespaces_follow_from_salts(tmp_path: Path) -> None:
    tenants = read(tmp_path, TOML, "tokens.toml")
    other = read(tmp_path, TOML.replace("pepper", "paprika"), "tokens.toml")
    assert len(tenants.namespaces) == 2
    assert len(tenants.namespaces & other.namespaces) == 1


DIGEST = hashlib.sha256(b"t").hexdigest()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"token": False}, "token: expected .* got true or false"),
        ({"token": []}, "token: expected .* got a list"),
        ({"token": 12345}, "token: expected .* got a number"),
        ({"token": ""}, "token: expected .* got an empty string"),
        ({"token": "schlüssel"}, "token: expected .* ASCII .* no request can bring"),
        ({"token": "t "}, "token: expected .* without spaces, got one that no request"),
        ({"token": "t\n"}, "token: expected .* got one that no request can bring"),
        ({"token": "t" * 4097}, "token: expected 1 to 4096 .* got 4097 characters"),
        ({"salt": False}, "salt: expected a string .* got true or false"),
        ({"salt": ""}, "salt: expected a string .* got an empty string"),
        ({"salt": "\ud800"}, "salt: .* surrogate"),
        ({"salt": None}, "expected a name, a salt and .* got name, token"),
        ({"token": None}, "either token or token_sha256; got name, salt"),
        ({"token_sha256": DIGEST}, "either token or token_sha256"),
        ({"token": None, "token_sha256": "00"}, "token_sha256: expected 64 hex.* got 2 char"),
        ({"token": None, "token_sha256": "zz" * 32}, "token_sha256: expected 64 hex"),
        ({"token": None, "token_sha256": " " + DIGEST[:-1]}, "token_sha256: expected 64 hex"),
        ({"token": None, "token_sha256": ["00"]}, "token_sha256: .* got a list"),
        ({"token": None, "token_sha256": hashlib.sha256(b"").hexdigest()}, "no token at all"),
        ({"quota_mb": float("inf")}, "quota_mb: expected a number .* no limit.* got a larger"),
        ({"quota_mb": float("nan")}, "quota_mb: expected a number .* got no number"),
        ({"quota_mb": 1e308}, "quota_mb: expected a number .* got a larger one"),
        ({"quota_mb": 10**4000}, "quota_mb: expected a number .* got a larger one"),
        ({"quota_mb": -1}, "quota_mb: expected a number from 0 .* got one below 0"),
        ({"quota_mb": "5"}, "quota_mb: expected a number .* got a string"),
        ({"quota_mb": True}, "quota_mb: expected a number .* got true or false"),
        ({"quota_objects": 1.5}, "quota_objects: expected a whole number .* got a number"),
        ({"quota_objects": -1}, "quota_objects: expected a whole number .* got one below 0"),
        ({"operator": "yes"}, "operator: expected true or false, got a string"),
        ({"operator": 1}, "operator: expected true or false, got a number"),
        ({"name": "n" * 101}, "name: expected 1 to 100 .* got 101 characters"),
        ({"name": "a\nb"}, "name: expected .* printable characters, got 'a.nb'"),
        ({"name": "\ud800"}, "name: expected .* printable characters"),
        ({"name": 5}, "tenant 1: name: expected .* got a number"),
        ({"qouta_mb": 1}, "no other fields than .*; got 'qouta_mb'"),
    ],
)
def test_a_mistake_in_a_field(tmp_path: Path, fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as said:
        read(tmp_path, one(**fields))
    who = f"{tmp_path / 'tokens.json'}: tenant 1"
    assert str(said.value).startswith(who)
    assert "name" in fields or str(said.value).startswith(f"{who} ('a'): ")
    assert "schl" not in str(said.value)
    assert "\n" not in str(said.value) and len(str(said.value)) < 500


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "list of tenants"),
        ('{"tenants": {}}', "list of tenants"),
        ('{"tenants": []}', "at least one tenant .* got none"),
        ('{"tenants": [5]}', "tenant 1: expected a table, got a number"),
        ('{"tenants": [], "extra": 1}', "list of tenants only, got 'extra'"),
        (one()[:-3] + ', "token": "u"}]}', "'token' twice"),
        ("not json", "list of tenants"),
        ("", "list of tenants"),
        (b"\xff\xfe", "list of tenants"),
        ("[" * 100_000, "too deep"),
        ('{"a":' * 100_000, "too deep"),
        (one(quota_mb=0).replace("0}", "1" * 5000 + "}"), "list of tenants"),
        (json.dumps({"tenants": [{}] * 10_001}), "at most 10000, got 10001"),
        (" " * (4 << 20) + "{}", "at most 4194304 bytes, got more"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=f"tokens.json: .*{message}"):
        read(tmp_path, content)


@pytest.mark.parametrize("content", ["tenants = " + "[" * 100_000, "x = ", "[[tenants]]\nname = 1"])
def test_a_toml_file_that_is_none(tmp_path: Path, content: str) -> None:
    with pytest.raises(ValueError, match=r"tokens\.toml: .*expected"):
        read(tmp_path, content, "tokens.toml")


def test_a_date_is_no_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"name: expected .* got a date or time"):
        read(tmp_path, TOML.replace('"a"', "2026-01-01"), "tokens.toml")


@pytest.mark.parametrize("what", ["name", "token_sha256"])
def test_nobody_shares_a_name_or_a_token(tmp_path: Path, what: str) -> None:
    entries = [
        {"name": "a", "salt": "1", "token": "t"},
        {
            "name": "a" if what == "name" else "b",
            "salt": "2",
            "token": "t" if what != "name" else "u",
        },
    ]
    with pytest.raises(ValueError, match=f"different {what}s, got one twice: of 'a' and '[ab]'"):
        read(tmp_path, json.dumps({"tenants": entries}))


@pytest.mark.parametrize(
    ("mode", "warns"), [(0o600, False), (0o640, False), (0o644, True), (0o602, True)]
)
def test_a_file_that_everybody_can_read(
    tmp_path: Path, mode: int, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tokens.json").write_text(one())
    (tmp_path / "tokens.json").chmod(mode)
    with caplog.at_level(logging.WARNING):
        read_tenants(tmp_path / "tokens.json", quota_bytes=None)
    assert ("everybody on this machine" in caplog.text) is warns
