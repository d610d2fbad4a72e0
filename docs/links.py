"""Links that lead out of the documentation work in the repository; in the site they are names."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

_LINK = re.compile(r"\[([^\]]+)\]\(([^)#:\s]+)(#[^)]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Called for every page before it is rendered."""
    folder = PurePosixPath(page.file.src_uri).parent

    def kept(match: re.Match[str]) -> str:
        depth = 0
        for part in (*folder.parts, *PurePosixPath(match[2]).parts):
            depth += -1 if part == ".." else 1
            if depth < 0:
                return match[1]
        return match[0]

    return _LINK.sub(kept, markdown)
