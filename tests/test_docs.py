"""The Python examples of README.md run, one after the other, as one program; guides' after them."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
GUIDES = sorted((ROOT / "docs" / "guide").glob("*.md"))
EXAMPLE = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def examples(text: str) -> list[tuple[int, str]]:
    """Line above the code, and the code, of every Python block."""
    return [
        (text.count("\n", 0, match.start(1)), match.group(1)) for match in EXAMPLE.finditer(text)
    ]


def run(text: str, name: str, namespace: dict[str, object] | None = None) -> dict[str, object]:
    """Execute the examples in one namespace; tracebacks name the lines of the document."""
    namespace = {"__name__": "__main__"} if namespace is None else namespace
    for line, code in examples(text):
        exec(compile("\n" * line + code, name, "exec"), namespace)
    return namespace


@pytest.fixture
def after_readme(tmp_path, monkeypatch):
    """What the README's examples leave behind."""
    text = README.read_text(encoding="utf-8")
    assert examples(text), "README.md has no python example"
    monkeypatch.chdir(tmp_path)
    return run(text, str(README))


def test_the_readme_runs(after_readme):
    assert "loaded" in after_readme


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_a_guide_runs_after_the_readme(after_readme, guide):
    run(guide.read_text(encoding="utf-8"), str(guide), after_readme)


def test_blocks_share_names_and_other_languages_are_left_alone():
    text = "# T\n\n```python\na = 1\n```\n\n```sh\nrm -r /\n```\n\n```python\nb = a + 1\n```\n"
    assert examples(text) == [(3, "a = 1\n"), (11, "b = a + 1\n")]
    assert run(text, "T")["b"] == 2
