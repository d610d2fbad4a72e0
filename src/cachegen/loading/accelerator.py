"""Devices that work while the program goes on: what is timed there has to be waited for."""

from __future__ import annotations

import torch


def synchronize(device: torch.device | str) -> None:
    """Wait until a device has done everything it was told to; a CPU always has."""
    if torch.device(device).type != "cpu":
        torch.accelerator.synchronize(device)
