"""What CONTRIBUTING.md says of how many files a context passes through."""

import re
from pathlib import Path

from tests.walk import shipped_context, walks

CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"


def test_a_context_passes_through_no_more_files_than_said() -> None:
    text = CONTRIBUTING.read_text(encoding="utf-8")
    said = re.search(r"(\d+) for a save, (\d+) for a load", text)
    assert said is not None
    saved, loaded = walks(*shipped_context())
    assert 20 < len(saved) <= int(said[1]), saved
    assert 20 < len(loaded) <= int(said[2]), loaded


def test_the_files_to_read_first_are_there() -> None:
    text = CONTRIBUTING.read_text(encoding="utf-8")
    table = text[text.index("**Where to begin.**") : text.index("`python -m tests.walk`")]
    named = re.findall(r"`([\w/]+\.py)`", table)
    assert len(named) == 12
    source = CONTRIBUTING.parent / "src" / "cachegen"
    assert [name for name in named if not (source / name).is_file()] == []
