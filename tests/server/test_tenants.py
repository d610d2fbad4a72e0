from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest

from cachegen.server.tenants import Tenants, anonymous, read_tenants

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
""".format(hashlib.sha256(b"second").hexdigest())


@pytest.fixture
def tenants(tmp_path: Path) -> Tenants:
    (tmp_path / "tokens.toml").write_text(TOML)
    return read_tenants(tmp_path / "tokens.toml", quota_bytes=7)


def test_tokens_name_their_tenants(tenants: Tenants) -> None:
    first, second = tenants.find("Bearer first"), tenants.find("bearer second")
    assert (first.name, first.operator, first.quota_bytes) == ("a", True, 7)
    assert (second.name, second.operator, second.quota_bytes) == ("b", False, 2_500_000)
    assert tenants.find("Basic " + base64.b64encode(b"anyone:first").decode()) == first


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer x", "first", "Basic first", "X first"]
)
def test_no_other_header_names_anybody(tenants: Tenants, header: str | None) -> None:
    assert tenants.find(header) is None


def test_namespaces_follow_from_salts(tenants: Tenants, tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text(TOML.replace("pepper", "paprika"))
    other = read_tenants(tmp_path / "other.toml", quota_bytes=None)
    assert len(tenants.namespaces) == 2
    assert len(tenants.namespaces & other.namespaces) == 1


def test_without_tokens_everybody_is_one() -> None:
    known = anonymous(5)
    assert known.find(None) == known.find("Bearer x") == known.anonymous
    assert (known.anonymous.namespace, known.anonymous.quota_bytes) == ("", 5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "list of tenants"),
        ('{"tenants": []}', "at least one"),
        ('{"tenants": [{"name": "a", "token": "t"}]}', "salt"),
        ('{"tenants": [{"name": "a", "salt": "s"}]}', "either token or token_sha256"),
        ('{"tenants": [{"name": "a", "salt": "s", "token": ""}]}', "either token or token_sha256"),
        ('{"tenants": [{"name": "a", "salt": "s", "token_sha256": "00"}]}', "1 bytes"),
        ('{"tenants": [{"name": "a", "salt": "s", "token": "t", "qouta_mb": 1}]}', "qouta_mb"),
        ("not json", "list of tenants"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "tokens.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_tenants(tmp_path / "tokens.json", quota_bytes=None)


def test_nobody_shares_a_token(tmp_path: Path) -> None:
    entries = [{"name": name, "salt": name, "token": "same"} for name in "ab"]
    (tmp_path / "tokens.json").write_text(json.dumps({"tenants": entries}))
    with pytest.raises(ValueError, match="different token_sha256s"):
        read_tenants(tmp_path / "tokens.json", quota_bytes=None)
