"""The reference model that ships with the package: weights, texts and generated tasks.

This package knows nothing of caches or codecs, and imports neither torch nor transformers.
"""

from importlib.resources import files
from pathlib import Path

from cachegen.refmodel.tasks import FAMILIES, DocumentTask, Question, exact_match, generate


def weights_path() -> Path:
    """The folder of the model, as transformers and vLLM load it."""
    return Path(str(files(__package__))) / "weights"


def profile_path(preset: str = "transform") -> Path:
    """The model's profile: `transform`, `plain` or `paper`; the last does not ship."""
    return Path(str(files(__package__))) / "profiles" / f"{preset}.safetensors"


def text_names() -> tuple[str, ...]:
    """The names of the shipped texts, novels and Python's documentation.

    Profiles learn from `train-*` and place their levels on `heldout-*`. `eval-*` and
    `heldout-chesterton` are for measurements only. Of all these the model was trained on the
    novels of `train-*`.
    """
    folder = Path(str(files(__package__))) / "texts"
    return tuple(sorted(path.stem for path in folder.glob("*.txt")))


def load_text(name: str) -> str:
    """A shipped text by name."""
    if name not in text_names():
        raise ValueError(f"no shipped text is named {name!r}; there are {', '.join(text_names())}")
    return (Path(str(files(__package__))) / "texts" / f"{name}.txt").read_text(encoding="utf-8")


def read_texts(folder: Path) -> str:
    """All text files (`*.txt`) below a folder of the user's, one after the other.

    Raises:
        ValueError: there are none.
    """
    paths = sorted(folder.rglob("*.txt"))
    if not paths:
        raise ValueError(f"expected a folder with *.txt files, got {folder}")
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


__all__ = [
    "FAMILIES",
    "DocumentTask",
    "Question",
    "exact_match",
    "generate",
    "load_text",
    "profile_path",
    "read_texts",
    "text_names",
    "weights_path",
]
