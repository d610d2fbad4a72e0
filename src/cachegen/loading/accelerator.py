"""Waits for devices that compute asynchronously, so that times on them are complete."""

from __future__ import annotations

import torch


def synchronize(device: torch.device | str) -> None:
    """Wait until a device has finished its queued work; return at once for a CPU."""
    if torch.device(device).type != "cpu":
        torch.accelerator.synchronize(device)
