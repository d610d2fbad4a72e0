"""The memory that a load may take, whatever a store claims."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cachegen.codec.memory import MAX_DECODING_BYTES
from cachegen.contexts.lookup import Found
from cachegen.errors import BitstreamError
from cachegen.policy.controller import MAX_UNDECODED, ChunkState

# Shares of `max_bytes`: what is fetched and not decoded yet, and profiles. The rest is for the
# result and for decoding. Of 12 GiB on a machine of 24 GiB, 3 GiB are 8 transfers of 384 MiB each;
# chunks of 1,536 tokens have 4 to 200 MB. Arbitrary: an eighth to a half does. Profiles are read
# before there is anything else, and reading takes 8 times their bytes (docs/guide/security.md).
_FETCHED_SHARE = 4
_PROFILES_SHARE = 8
_CGROUP = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True, slots=True)
class Room:
    """The bounds of one load.

    Attributes:
        max_bytes: of the result, of what is fetched for it and of what decoding takes, at once.
    """

    max_bytes: int

    @property
    def fetched_bytes(self) -> int:
        """Of objects under way or not decoded yet, all together."""
        return self.max_bytes // _FETCHED_SHARE

    @property
    def profiles_bytes(self) -> int:
        """Of profiles, all together."""
        return self.max_bytes // _PROFILES_SHARE

    def decoding_bytes(self, result_bytes: int) -> int:
        """What is left for decoding a chunk beside a result, and as many others as wait.

        Raises:
            BitstreamError: the result takes too much itself.
        """
        left_bytes = self.max_bytes - self.fetched_bytes - self.profiles_bytes - result_bytes
        if left_bytes <= 0:
            raise BitstreamError(
                f"expected a result that, with what is fetched for it, takes at most "
                f"max_bytes={self.max_bytes}, got one of {result_bytes} bytes; give `load` a "
                "larger max_bytes if you trust the store",
                field="geometry",
            )
        return min(left_bytes // MAX_UNDECODED, MAX_DECODING_BYTES)

    def affordable(self, found: Found) -> Found:
        """What was found, without the levels of chunks whose objects would take too much."""
        errors: list[tuple[int, str]] = []
        chunks = tuple(self._affordable(i, c, errors) for i, c in enumerate(found.chunks))
        return replace(found, chunks=chunks, errors=(*found.errors, *errors)) if errors else found

    def _affordable(
        self, index: int, chunk: ChunkState, errors: list[tuple[int, str]]
    ) -> ChunkState:
        kept = tuple(o for o in chunk.options if o.size_bytes <= self.fetched_bytes)
        for option in chunk.options:
            if option not in kept:
                errors.append(
                    (
                        index,
                        f"{option.level}: expected at most {self.fetched_bytes} bytes (of "
                        f"max_bytes={self.max_bytes}), got {option.size_bytes}; give `load` a "
                        "larger max_bytes",
                    )
                )
        return replace(chunk, options=kept)


def room(max_bytes: int | None, device: torch.device | str) -> Room:
    """The room of a load; without ``max_bytes`` half of the memory of this machine.

    For a result on another device, as much as that device has if that is more.

    Raises:
        ValueError: not a positive number of bytes.
    """
    if max_bytes is None:
        return Room(max(machine_bytes() // 2, _device_bytes(torch.device(device))))
    if max_bytes <= 0:
        raise ValueError(f"expected max_bytes as a positive number, got {max_bytes}")
    return Room(max_bytes)


def machine_bytes() -> int:
    """Memory of this machine, or of the container that this process is in."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # no container, or one without a limit
        whole = min(whole, int(_CGROUP.read_text()))
    return whole


def _device_bytes(device: torch.device) -> int:
    if device.type in ("cpu", "meta"):
        return 0
    with suppress(RuntimeError, NotImplementedError):  # a device that does not tell
        return int(torch.accelerator.get_memory_info(device)[1])
    return 0
