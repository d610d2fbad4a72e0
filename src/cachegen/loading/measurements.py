"""Measurements of this machine, kept between runs in the user's cache directory.

One JSON file for each (model, device, number of threads). A file that is missing, or may not be
read, counts as empty; so does anything else than such a file, with a warning. If several processes
write at once, the last file remains, whole.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
import tempfile
import threading
import time
import warnings
from collections.abc import Sized
from dataclasses import astuple, dataclass
from math import isclose
from pathlib import Path
from typing import Any

import platformdirs
import torch

from cachegen.policy.costs import Costs, DecodeCost, PrefillCost, fit_decode, fit_prefill
from cachegen.store.protocol import public_name

FOLDER_VARIABLE = "CACHEGEN_CACHE_DIR"
_FORMAT = "cachegen-costs-1"
# Arbitrary: 100 to 1,000 do; a line or two.
_WARNING_LENGTH = 200
# Three coefficients are fitted to them. Arbitrary: 12 (see policy/costs.py) to 1,000 does.
_MOST_SAMPLES = 32
# Only bounds the file. Arbitrary: 16 to 10,000 does.
_MOST_STORES = 64
# Only bounds the file. Levels that are known are 12; 16 to 1,000 do.
_MOST_LEVELS = 64
# Above what the bounds before allow: 2,112 samples of 80 bytes, 64 stores of 2 kB.
_MOST_FILE_BYTES = 1 << 20
# Of a name, a level's or a store's. Levels have 64 (FORMAT.md); URLs of stores are shorter, too.
_LONGEST_NAME = 2048
# Positions in manifests are at most that (FORMAT.md, section 5); keeps fits finite.
_MOST_TOKENS = 2**48
# 32 years, and more bytes a second than any link; keep sums finite.
_LARGEST = 1e18
# A stale throughput fades within `_PRIOR_S` of transfers. Arbitrary: minutes to a day does.
_LINK_AGE_S = 3600.0
# Far above the rounding of float64, far below any two measurements.
_SAME = 1e-6

Prefill = tuple[int, int, float]
Decode = tuple[int, float]


@dataclass(frozen=True, slots=True)
class LinkHistory:
    """The last measurement of a store's link.

    Attributes:
        bytes_per_s: its throughput.
        request_s: seconds from a request to its first byte.
        at_s: when it was measured, in seconds since the epoch.
    """

    bytes_per_s: float
    request_s: float
    at_s: float


class Measurements:
    """Times of a model on a device, and links to stores; safe between threads."""

    def __init__(self, path: Path) -> None:
        """Start without measurements; `save` writes to ``path``."""
        self.path = path
        self._lock = threading.Lock()
        self._prefill: list[Prefill] = []
        self._decode: dict[str, list[Decode]] = {}
        self._links: dict[str, LinkHistory] = {}
        self._prefill_cost: PrefillCost | None = None
        self._decode_costs: dict[str, DecodeCost] = {}

    @classmethod
    def read(cls, fingerprint: bytes, device: str) -> Measurements:
        """Read the measurements of a model on a device with the current number of threads."""
        threads = torch.get_num_threads()
        name = f"{fingerprint.hex()[:32]}-{device.replace(':', '')}-{threads}.json"
        found = cls(_folder() / name)
        try:
            found._take(json.loads(_content(found.path)))
        except OSError:  # none yet, or no folder that this user may read
            return found
        except Exception as error:  # whatever is in the file, a load does without it
            what = f"{type(error).__name__}: {error}"[:_WARNING_LENGTH]
            warnings.warn(
                f"{found.path}: expected measurements of this machine, got something else ({what});"
                " they are taken anew, and replace it",
                RuntimeWarning,
                stacklevel=2,
            )
        return found

    def costs(self, url: str | None = None) -> Costs:
        """The costs fitted to the samples, with the request time of the store at ``url``."""
        with self._lock:
            link = None if url is None else self._links.get(_name(url))
            if self._prefill_cost is None:
                self._prefill_cost = fit_prefill(self._prefill)
            for level in self._decode.keys() - self._decode_costs.keys():
                self._decode_costs[level] = fit_decode(self._decode[level])
            return Costs(
                self._prefill_cost, dict(self._decode_costs), link.request_s if link else 0.0
            )

    def throughput(self, url: str) -> float | None:
        """Last bytes per second of a store; None if unknown or more than an hour old."""
        with self._lock:
            link = self._links.get(_name(url))
        is_fresh = link is not None and 0 <= time.time() - link.at_s < _LINK_AGE_S
        return link.bytes_per_s if link is not None and is_fresh else None

    def add_prefill(self, num_tokens: int, past: int, seconds: float) -> None:
        """Add the seconds in which ``num_tokens`` were computed after ``past`` others."""
        with self._lock:
            self._prefill.append((num_tokens, past, seconds))
            _thin(self._prefill, [_size_class(n, before) for n, before, _ in self._prefill])
            self._prefill_cost = None

    def add_decode(self, level: str, num_tokens: int, seconds: float) -> None:
        """Add the seconds in which a chunk of ``num_tokens`` was decoded."""
        with self._lock:
            samples = self._decode.setdefault(level, [])
            while len(self._decode) > _MOST_LEVELS:
                oldest = next(iter(self._decode))
                del self._decode[oldest]
                self._decode_costs.pop(oldest, None)
            samples.append((num_tokens, seconds))
            _thin(samples, [_size_class(n) for n, _ in samples])
            self._decode_costs.pop(level, None)

    def add_link(self, url: str, bytes_per_s: float, request_s: float) -> None:
        """Replace the measurement of a store's link.

        An unchanged throughput was not measured again and keeps its age.
        """
        with self._lock:
            known = self._links.pop(_name(url), None)
            is_news = known is None or not isclose(known.bytes_per_s, bytes_per_s, rel_tol=_SAME)
            at_s = time.time() if known is None or is_news else known.at_s
            self._links[_name(url)] = LinkHistory(bytes_per_s, request_s, at_s)
            while len(self._links) > _MOST_STORES:
                del self._links[next(iter(self._links))]

    def save(self) -> None:
        """Replace the file atomically; do nothing if that is not permitted."""
        with self._lock:
            content = {
                "format": _FORMAT,
                "prefill": self._prefill,
                "decode": self._decode,
                "links": {url: astuple(link) for url, link in self._links.items()},
            }
            text = json.dumps(content, indent=1)
        with contextlib.suppress(OSError):
            _replace(self.path, text)

    def _take(self, content: Any) -> None:
        """Take over a file's content, or raise and take over nothing."""
        if content["format"] != _FORMAT:
            raise ValueError(f"expected the format {_FORMAT}, got {content['format']}")
        prefill = [(_count(n), _count(p), _positive(s)) for n, p, s in content["prefill"]]
        decode = {
            _text(level): [(_count(n), _positive(s)) for n, s in samples]
            for level, samples in content["decode"].items()
        }
        links = {
            _text(url): LinkHistory(_positive(rate), _positive(wait), _positive(at))
            for url, (rate, wait, at) in content["links"].items()
        }
        _check_number(prefill, _MOST_SAMPLES)
        for samples in decode.values():
            _check_number(samples, _MOST_SAMPLES)
        _check_number(decode, _MOST_LEVELS)
        _check_number(links, _MOST_STORES)
        self._prefill, self._decode, self._links = prefill, decode, links


def _folder() -> Path:
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named) if named else platformdirs.user_cache_path("cachegen") / "costs"


def _content(path: Path) -> bytes:
    """The bytes of a file, if it is one; of anything else no byte is waited for.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no regular file, or too long.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError("it is no file")
        with open(handle, "rb", closefd=False) as file:
            content = file.read(_MOST_FILE_BYTES + 1)
    finally:
        os.close(handle)
    if len(content) > _MOST_FILE_BYTES:
        raise ValueError(f"it has more than {_MOST_FILE_BYTES} bytes")
    return content


def _name(url: str) -> str:
    """The URL without user, password and query, which are secret or change."""
    return public_name(url)[:_LONGEST_NAME]


def _size_class(num_tokens: int, past: int = 0) -> tuple[int, int]:
    return num_tokens.bit_length(), past.bit_length()


def _thin(samples: list[Prefill] | list[Decode], classes: list[tuple[int, int]]) -> None:
    """Drop the oldest samples of the fullest size classes until few enough remain."""
    while len(samples) > _MOST_SAMPLES:
        fullest = max(classes, key=classes.count)
        oldest = classes.index(fullest)
        del samples[oldest], classes[oldest]


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(name, path)
    except OSError:
        os.unlink(name)
        raise


def _positive(value: Any) -> float:
    number = float(value)
    if not (math.isfinite(number) and 0 <= number <= _LARGEST):
        raise ValueError(f"expected a number from 0 to {_LARGEST:g}, got {number}")
    return number


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _MOST_TOKENS:
        raise ValueError("expected a number of tokens")
    return value


def _text(value: str) -> str:
    if len(value) > _LONGEST_NAME:
        raise ValueError(f"expected a name of at most {_LONGEST_NAME} characters")
    return value


def _check_number(items: Sized, most: int) -> None:
    if len(items) > most:
        raise ValueError(f"expected at most {most} items, got {len(items)}")
