"""The Python examples of README.md run, one after the other, as one program."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
EXAMPLE = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def examples(text: str) -> list[tuple[int, str]]:
    """Line above the code, and the code, of every Python block."""
    return [
        (text.count("\n", 0, match.start(1)), match.group(1)) for match in EXAMPLE.finditer(text)
    ]


def run(text: str, name: str) -> dict[str, object]:
    """Execute the examples in one namespace; tracebacks name the lines of the document."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    for line, code in examples(text):
        exec(compile("\n" * line + code, name, "exec"), namespace)
    return namespace


def test_the_readme_runs(tmp_path, monkeypatch):
    text = README.read_text(encoding="utf-8")
    assert examples(text), "README.md has no python example"
    monkeypatch.chdir(tmp_path)
    run(text, str(README))


def test_blocks_share_names_and_other_languages_are_left_alone():
    text = "# T\n\n```python\na = 1\n```\n\n```sh\nrm -r /\n```\n\n```python\nb = a + 1\n```\n"
    assert examples(text) == [(3, "a = 1\n"), (11, "b = a + 1\n")]
    assert run(text, "T")["b"] == 2
