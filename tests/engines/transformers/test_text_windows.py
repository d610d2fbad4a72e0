"""Pieces of text that quality is measured on."""

from itertools import pairwise

import pytest
import torch

from cachegen.engines.transformers.tasks import Task
from cachegen.engines.transformers.text_windows import Window, answer_window, cut_windows, spread


@pytest.fixture(scope="module")
def texts():
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(3, 128, (n,), generator=generator) for n in (400, 90, 700)]


def test_pieces_are_spread_evenly_and_do_not_overlap(texts):
    every = spread(texts, num_tokens=80, count=14)
    assert [len(piece) for piece in every] == [80] * 14
    assert every[1] == tuple(texts[0][80:160].tolist())
    assert every[5] == tuple(texts[1][:80].tolist())
    assert spread(texts, num_tokens=80, count=7) == every[::2]
    with pytest.raises(ValueError, match="enough for 14"):
        spread(texts, num_tokens=80, count=15)


def test_windows_predict_what_follows_their_context(texts):
    (window,) = cut_windows(texts[:1], num_tokens=64, continuation_tokens=24, count=1)
    assert window.context + window.continuation == tuple(texts[0][:89].tolist())
    assert len(window.continuation) == 25


def test_windows_may_share_contexts_but_no_continuations(texts):
    windows = cut_windows(
        texts[2:], num_tokens=64, continuation_tokens=24, count=24, prefix=(1, 2), overlap=True
    )
    text = texts[2].tolist()
    assert all(len(window.context) == 64 and window.context[:2] == (1, 2) for window in windows)
    starts = [next(s for s in range(700) if text[s : s + 62] == [*w.context[2:]]) for w in windows]
    followed = [tuple(text[start + 62 : start + 87]) for start in starts]
    assert followed == [window.continuation for window in windows]
    assert min(after - before for before, after in pairwise(starts)) >= 25
    with pytest.raises(ValueError, match="enough for"):
        cut_windows(texts[2:], num_tokens=64, continuation_tokens=24, count=24)


def test_a_window_of_questions_and_answers(ascii_tokenizer):
    task = Task("asked", (33, 34), ((65, 66), (67,)), ("cd", "e"))
    window = answer_window(task, ascii_tokenizer)
    assert window.context == task.context
    assert ascii_tokenizer.decode(window.continuation) == "AB cd.C e."
    predicted = zip(window.continuation[1:], window.answers, strict=True)
    marked = [token for token, is_answer in predicted if is_answer]
    assert ascii_tokenizer.decode(marked) == " cd e"
    short = answer_window(task, ascii_tokenizer, continuation_tokens=4)
    assert short == Window(window.context, window.continuation[:5], window.answers[:4])
