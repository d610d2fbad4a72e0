"""Errors leave the command line as one line and exit status 1."""

import subprocess
import sys
from pathlib import Path


def test_an_error_is_one_line_on_standard_error(tmp_path: Path) -> None:
    damaged = tmp_path / "chunk"
    damaged.write_bytes(b"CGKV" + bytes(200))
    done = subprocess.run(
        [sys.executable, "-m", "cachegen.cli", "inspect", str(damaged)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
