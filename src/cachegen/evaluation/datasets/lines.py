"""LongEval's lines: many named numbers, one of which is asked for.

(https://github.com/DachengLi1/LongChat.) Of a published prompt that is too long for the room, lines
are left out at random, never the one that is asked for. More cases than there are prompts are made
of the lines of all of them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cachegen.engines.transformers.text_windows import evenly
from cachegen.evaluation.case import Case
from cachegen.evaluation.datasets.dataset import Dataset, Request
from cachegen.evaluation.datasets.files import rows
from cachegen.evaluation.datasets.pieces import kept, sizes
from cachegen.evaluation.datasets.prompts import Prompt, num_tokens, template_or, to_case
from cachegen.evaluation.datasets.vicuna import VICUNA

_NAME = "lines"
_FILE = "longchat/200_lines.jsonl"
# Five digits and brackets, at most a token each, and some more; LongEval takes up to 100.
_NEW_TOKENS = 16
_LINE = re.compile(r"^line (.+): REGISTER_CONTENT is <(\d+)>\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class _Record:
    """Lines with text before and behind; `asked` is the index of the line in question."""

    header: str
    lines: tuple[str, ...]
    closing: str
    asked: int


def _load(request: Request) -> list[Case]:
    published = _published(request.data / _FILE)
    numbered = evenly(list(enumerate(published)), request.count)
    cases = [_shortened(record, request, f"published-{index:03}") for index, record in numbered]
    return cases + _generated(published, request, count=request.count - len(cases))


def _published(path: Path) -> list[_Record]:
    found = []
    for number, row in enumerate(rows(path, keys=("prompt", "correct_line")), start=1):
        text, lines = row["prompt"], list(_LINE.finditer(row["prompt"]))
        texts = [line[0] for line in lines]
        if row["correct_line"] not in texts:
            raise ValueError(f"{path}, line {number}: expected a prompt with its correct_line")
        header, closing = text[: lines[0].start()], text[lines[-1].end() :].rstrip(" ")
        found.append(_Record(header, tuple(texts), closing, texts.index(row["correct_line"])))
    return found


def _shortened(record: _Record, request: Request, name: str) -> Case:
    others = [index for index in range(len(record.lines)) if index != record.asked]
    random.Random(f"{_NAME}/{request.seed}/{name}").shuffle(others)
    each = sizes(record.lines, request.tokenizer)
    return _case(record, each, (record.asked, *others), request, name)


def _generated(published: Sequence[_Record], request: Request, *, count: int) -> list[Case]:
    """Lines of all prompts in random order, as many as the room holds, one of them asked for."""
    if count < 1:
        return []
    pool = list({_named(line): line for record in published for line in record.lines}.values())
    each = dict(zip(pool, sizes(pool, request.tokenizer), strict=True))
    like = published[0]
    cases = []
    for index in range(count):
        name = f"generated-{request.seed}-{index:03}"
        draw = random.Random(f"{_NAME}/{name}")
        lines = draw.sample(pool, len(pool))
        order = draw.sample(range(len(pool)), len(pool))
        closing = like.closing.replace(_named(like.lines[like.asked]), _named(lines[order[0]]))
        record = _Record(like.header, tuple(lines), closing, order[0])
        cases.append(_case(record, [each[line] for line in lines], order, request, name))
    return cases


def _named(line: str) -> str:
    found = _LINE.match(line)
    assert found is not None
    return found[1]


def _case(
    record: _Record, each: Sequence[int], order: Sequence[int], request: Request, name: str
) -> Case:
    room = request.context_tokens - num_tokens(_prompt(record, (), request), request.tokenizer)
    indexes = kept(each, order, room=room)
    if len(indexes) < 2 or record.asked not in indexes:
        raise ValueError(
            f"expected room for two of the {_NAME}, got {request.context_tokens} tokens, of which "
            f"{room} are for lines; give contexts more tokens, or leave {_NAME} out"
        )
    lines = [record.lines[index] for index in indexes]
    return to_case(
        _prompt(record, lines, request),
        request,
        dataset=_NAME,
        name=name,
        score="number",
        most_new_tokens=_NEW_TOKENS,
    )


def _prompt(record: _Record, lines: Sequence[str], request: Request) -> Prompt:
    """The answer is opened as LongEval does for models that are no assistants: small ones talk."""
    found = _LINE.match(record.lines[record.asked])
    assert found is not None
    return Prompt(
        record.header + "".join(lines),
        record.closing,
        (found[2],),
        opening=f"Line <{found[1]}>: <REGISTER_CONTENT> is",
        wrapping=template_or(VICUNA, request.tokenizer),
    )


DATASET = Dataset(_NAME, (_FILE,), _load)
