"""What a forked child of a process that loads and saves would hang at, outside this library."""

from __future__ import annotations

import os
import threading
from functools import cache, cached_property

import torch

from cachegen.codec.profile import Profile


@cache
def survive_forks() -> None:
    """From now on children that are forked can load and save."""
    os.register_at_fork(after_in_child=_set_right)


def _set_right() -> None:
    """A tensor operation of several threads would wait for OpenMP's, which the child does not
    have; before Python 3.12 a cached property has a lock, which a thread may have held."""
    torch.set_num_threads(1)
    for found in vars(Profile).values():
        if isinstance(found, cached_property) and hasattr(found, "lock"):
            found.lock = threading.RLock()
