"""The files of the texts that models are calibrated with."""

import json
import lzma

import pytest

from cachegen.evaluation.texts import CHAT, NOVELS, WIKITEXT, texts_of
from training.open_models.texts import check_data, write_texts


def count(text: str) -> int:
    return len(text.split())


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    for name in (NOVELS, WIKITEXT, CHAT):
        (folder / name).parent.mkdir(parents=True)
    books = (f"<<<B{book}>>>\n" + f"book{book} goes on\n" * 1500 for book in range(8))
    with lzma.open(folder / NOVELS, "wt") as file:
        file.write("".join(books))
    articles = (f" = Article {n} = \n \n" + f" = = Part = = \n article{n}\n" * 9 for n in range(8))
    (folder / WIKITEXT).write_text(" \n" + "".join(articles))
    talks = (json.dumps({"conversation": f"USER: talk{n}\n" * 9}) for n in range(8))
    (folder / CHAT).write_text("\n".join(talks) + "\n")
    return folder


def test_every_kind_of_text_becomes_a_file(data, tmp_path):
    check_data(data)
    written = write_texts(data, tmp_path / "texts", count)
    assert {name: path.read_text() for name, path in written.items()} == texts_of(data, count)


def test_no_data_says_what_is_wanted(data):
    with pytest.raises(ValueError, match=r"CALIBRATE=1 needs DATA=DIR, a folder with corpus/"):
        check_data(None)
    (data / CHAT).unlink()
    with pytest.raises(ValueError, match=r"in DATA=.*, longchat/conversations\.jsonl not found"):
        check_data(data)
