"""A store whose chunks can be held back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

LIMIT_S = 300.0  # so that a test that fails ends


class Gate:
    """A store whose chunks wait for `go`, or call `first` before any is asked for."""

    def __init__(self, inner: Any, first: Callable[[], None] | None = None) -> None:
        self.inner, self.first, self.go = inner, first, threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def get(self, key: str, range: Any = None) -> Iterator[memoryview]:
        if key.startswith("chunks/"):
            if self.first is None:
                self.go.wait(LIMIT_S)
            else:
                self.first()
        yield from self.inner.get(key, range)
