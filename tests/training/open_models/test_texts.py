"""The files of the texts that models are calibrated with."""

import pytest

from cachegen.evaluation.texts import CHAT, texts_of
from tests.evaluation.corpus import write_corpus
from training.open_models.texts import check_data, write_texts


def count(text: str) -> int:
    return len(text.split())


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    write_corpus(folder)
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
