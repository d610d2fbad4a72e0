"""`serve`: what it refuses before it listens. Serving itself is tested in tests/server."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cachegen.cli import app


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "give --tenants, or --allow-anonymous"),
        (["--host", "example.org"], "reachable from other machines"),
        (["--tls-cert", "x.pem"], "both --tls-cert and --tls-key"),
        (["--tenants", "none.toml"], "none.toml"),
        (["--tls-cert", "x.pem", "--tls-key", "y.pem"], "No such file"),
    ],
)
def test_what_is_refused(options: list[str], message: str, tmp_path: Path) -> None:
    command = ["serve", "--store", str(tmp_path), "--port", "0", *options]
    result = CliRunner().invoke(app, command)
    assert message in str(result.exception)


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(app, ["serve", "--store", str(tmp_path), "--port", port])
    assert "in use" in str(result.exception)


def test_help_names_every_limit() -> None:
    result = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200"})
    for option in (
        *("--max-object-mb", "--quota-mb", "--capacity-mb", "--max-connections"),
        *("--drain-s", "--index"),
    ):
        assert option in result.output
