"""Where numbers were measured: the machine, the commit, the versions."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

_PACKAGES = ("cachegen", "torch", "transformers", "numpy")
_CPU_INFO = Path("/proc/cpuinfo")


def machine() -> str:
    """Processors that this process may use, their model, and an accelerator if there is one."""
    names = [platform.processor() or platform.machine()]
    if _CPU_INFO.is_file():
        lines = _CPU_INFO.read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    found = f"{os.cpu_count() or 1} x {names[0] if names else platform.machine()}"
    return f"{found}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else found


def commit() -> str:
    """The commit that the package was run from, marked where it was changed; else its version."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return found.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return f"version {version('cachegen')}"


def versions() -> dict[str, str]:
    """Of the packages that decide results."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
