"""`contexts`: every store that can list, and what is said of those that cannot."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cachegen.bitstream.manifest import manifest_key
from cachegen.cli import app
from cachegen.errors import StoreError
from cachegen.store import open_store
from tests.server.conftest import serving
from tests.toy import Toy

TOY = Toy()


def run(store: object, *options: str) -> str:
    command = ["contexts", "--store", str(store), *options]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def run_json(store: object, *options: str) -> dict[str, Any]:
    return dict(json.loads(run(store, "--json", *options)))


def save(folder: Path, *, num_tokens: int = 300, **options: Any) -> str:
    options = {"levels": ["medium", "high"], "profile": TOY.profile, **options}
    manifest = TOY.save(range(num_tokens), open_store(folder), **options)
    os.utime(folder / manifest_key(manifest.context_id), (1e9, 1e9))
    return manifest.context_id.hex()


def test_a_context_and_what_is_known_of_it(tmp_path: Path) -> None:
    context_id = save(tmp_path)
    (found,) = run_json(tmp_path)["contexts"]
    assert found["context_id"] == context_id
    assert found["model_fingerprint"] == TOY.fingerprint.hex()
    assert (found["tokens"], found["chunks"], found["exact"]) == (300, 3, True)
    assert list(found["levels"]) == ["medium", "high"]
    assert found["bytes"] == sum(level["bytes"] for level in found["levels"].values())
    assert found["profiles"] == [TOY.profile.hash.hex()]
    assert found["modified"] == "2001-09-09T01:46:40+00:00"


def test_the_table(tmp_path: Path) -> None:
    context_id = save(tmp_path)
    save(tmp_path, num_tokens=400, exact=False, levels=["low"])
    (tmp_path / "contexts" / ("0" * 64)).write_bytes(b"junk")
    table = run(tmp_path)
    assert re.search(r": 2 contexts of 1 model, [\d,]+ bytes", table)
    assert re.search(rf"{context_id[:12]} .* 300 .* medium, high .* 0 .* \d{{4}} d ", table)
    assert "low; inexact" in table
    assert "1 manifest cannot be read:" in table


def test_order_and_limit(tmp_path: Path) -> None:
    for number, num_tokens in enumerate((200, 400, 300)):
        save(tmp_path, num_tokens=num_tokens, salt=bytes([number]))
    tokens = [found["tokens"] for found in run_json(tmp_path, "--sort", "tokens")["contexts"]]
    assert tokens == [400, 300, 200]
    newest = next(iter(open_store(tmp_path).list("contexts")))
    os.utime(tmp_path / newest, (2e9, 2e9))
    found = run_json(tmp_path, "--limit", "1")
    assert found["num_contexts"] == 3
    assert [one["modified"][:4] for one in found["contexts"]] == ["2033"]
    assert "2 more are not shown: --limit, --sort" in run(tmp_path, "--limit", "1")


def test_the_folder_of_a_server_with_tenants(tmp_path: Path) -> None:
    roots = ["t-" + digit * 32 for digit in "ab"]
    for root in roots:
        save(tmp_path / root)
    save(tmp_path / "elsewhere")
    assert [found["tenant_folder"] for found in run_json(tmp_path)["contexts"]] == roots
    table = run(tmp_path)
    assert "aaaaaaaa" in table and "2 contexts of 1 model" in table


def test_a_server_lists_what_is_the_tenants_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [{"name": name, "token": f"token-{name}", "salt": name} for name in "ab"]
    tenants = tmp_path / "tenants.json"
    tenants.write_text(json.dumps({"tenants": known}))
    tenants.chmod(0o600)
    folder = tmp_path / "store"
    with serving("--store", folder, "--tenants", tenants) as server:
        store = server.client("token-b")
        TOY.save(range(300), store, levels=["medium"], profile=TOY.profile)
        TOY.save(range(400), server.client("token-a"), levels=["high"], profile=TOY.profile)
        url = f"cachegen://{server.host}"
        monkeypatch.setenv("CACHEGEN_TOKEN", "token-b")
        (found,) = run_json(url)["contexts"]
        assert (found["tokens"], list(found["levels"])) == (300, ["medium"])
        assert found["modified"] is not None and found["tenant_folder"] == ""
    assert len(run_json(folder)["contexts"]) == 2


@pytest.mark.parametrize(
    ("store", "kind", "message"),
    [
        ("memory:", ValueError, "memory: is empty in a new process"),
        ("http://127.0.0.1:1/kv", StoreError, "cannot list contexts: a plain HTTP server is read"),
        ("/absent/folder", StoreError, "no folder /absent/folder"),
    ],
)
def test_what_cannot_be_listed(store: str, kind: type[Exception], message: str) -> None:
    result = CliRunner().invoke(app, ["contexts", "--store", store])
    assert isinstance(result.exception, kind)
    assert message in str(result.exception)


def test_an_empty_store(tmp_path: Path) -> None:
    assert run_json(tmp_path)["contexts"] == []
    assert "0 contexts of 0 models, 0 bytes" in run(tmp_path)
