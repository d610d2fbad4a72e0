"""What is measured meanwhile is not kept for the user's own loads."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from cachegen.loading.measurements import FOLDER_VARIABLE


@contextmanager
def apart() -> Iterator[None]:
    """Within it, measurements of this machine go to a folder that is gone afterwards."""
    before = os.environ.get(FOLDER_VARIABLE)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[FOLDER_VARIABLE] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ[FOLDER_VARIABLE]
            else:
                os.environ[FOLDER_VARIABLE] = before
