"""Keeps forked children of a loading process from hanging in PyTorch and in locks of Python."""

from __future__ import annotations

import os
import threading
from functools import cache, cached_property

import torch

from cachegen.codec.profile import Profile


@cache
def survive_forks() -> None:
    """Let children that are forked from now on load and save."""
    os.register_at_fork(after_in_child=_set_right)


def _set_right() -> None:
    """Repair a forked child: OpenMP's threads do not exist there, and before Python 3.12 the lock
    of a cached property may be held by a thread that is gone."""
    torch.set_num_threads(1)
    for found in vars(Profile).values():
        if isinstance(found, cached_property) and hasattr(found, "lock"):
            found.lock = threading.RLock()
