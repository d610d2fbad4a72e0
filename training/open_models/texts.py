"""Files of the texts that models are calibrated with."""

from __future__ import annotations

from pathlib import Path

from cachegen.evaluation.texts import CHAT, NOVELS, WIKITEXT, Count, texts_of
from training.open_models.whole import new_file


def check_data(data: Path | None) -> None:
    """Refuse a folder without the texts.

    Raises:
        ValueError: no folder was named, or files are missing in it.
    """
    wanted = (NOVELS, WIKITEXT, CHAT)
    if data is None:
        raise ValueError(f"CALIBRATE=1 needs DATA=DIR, a folder with {', '.join(wanted)}; got none")
    missing = [name for name in wanted if not (data / name).is_file()]
    if missing:
        raise ValueError(
            f"expected {', '.join(wanted)} in DATA={data}, {', '.join(missing)} not found; name "
            "the folder that has them"
        )


def write_texts(data: Path, folder: Path, count: Count) -> dict[str, Path]:
    """A file of every kind of text, by its name.

    Args:
        data: see `check_data`.
        folder: for the files.
        count: tokens of a text, as the model's tokenizer divides it.

    Raises:
        ValueError: a file is not what its name says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for name, text in texts_of(data, count).items():
        written[name] = folder / f"{name}.txt"
        with new_file(written[name]) as file:
            file.write(text.encode())
    return written
