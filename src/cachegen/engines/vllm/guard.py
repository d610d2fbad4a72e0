"""No exception leaves the connector while vLLM serves: it would end the engine."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

# A mistake that is made in every step is told once in so many seconds. Arbitrary: 10 to 600 do.
_TELL_EVERY_S = 60.0
Method = TypeVar("Method", bound=Callable[..., Any])
_told: dict[str, float] = {}


def guarded(otherwise: Callable[[], Any], *, logger: logging.Logger) -> Callable[[Method], Method]:
    """Decorate a method so that it returns ``otherwise()`` where it would raise."""

    def decorate(method: Method) -> Method:
        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return method(*args, **kwargs)
            except Exception:
                now_s = time.monotonic()
                if now_s - _told.get(method.__name__, -_TELL_EVERY_S) >= _TELL_EVERY_S:
                    _told[method.__name__] = now_s
                    logger.exception("%s failed; vLLM goes on without it", method.__name__)
                return otherwise()

        return call  # type: ignore[return-value]

    return decorate
