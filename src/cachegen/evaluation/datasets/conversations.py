"""Records of conversations on some topics, the first of which is asked for: LongEval's topics.

(https://github.com/DachengLi1/LongChat.) Of a record that is too long for the room, conversations
in the middle are left out: what remains is a record of fewer topics. It has two at least, which are
cut in the middle where the room is too small for both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cachegen.evaluation.case import Case
from cachegen.evaluation.datasets.dataset import Request
from cachegen.evaluation.datasets.files import rows
from cachegen.evaluation.datasets.pieces import kept, outside_in, sizes
from cachegen.evaluation.datasets.prompts import Prompt, num_tokens, template_or, to_case
from cachegen.evaluation.datasets.vicuna import VICUNA

# LongEval's bound on an answer.
_NEW_TOKENS = 50
_STARTS = re.compile(r"(?=USER: I would like to discuss the topic of )")
_CLOSING = " Now the record ends."
_NUMBER = re.compile(r"(?<=previous conversation on )\d+(?= different topics)")


@dataclass(frozen=True, slots=True)
class Record:
    """A record of conversations.

    Attributes:
        header: says what is in it, how many topics too.
        conversations: one a topic.
        closing: asks for the first topic.
        topic: the first one.
    """

    header: str
    conversations: tuple[str, ...]
    closing: str
    topic: str


def read_records(path: Path, *, topics: str) -> list[Record]:
    """The records of a published file, whose key `topics` lists a record's.

    Raises:
        ValueError: the file has other prompts.
    """
    found = []
    for number, row in enumerate(rows(path, keys=("prompt", topics)), start=1):
        try:
            found.append(parse(row["prompt"], row[topics][0]))
        except ValueError as exc:
            raise ValueError(f"{path}, line {number}: {exc}") from exc
    return found


def parse(prompt: str, topic: str) -> Record:
    """The record in a published prompt, with or without what it is wrapped in.

    Raises:
        ValueError: it is no such prompt.
    """
    text = prompt.removeprefix(VICUNA.head).removesuffix(VICUNA.tail)
    text, ends, closing = text.rpartition(_CLOSING)
    header, *conversations = _STARTS.split(text)
    if not ends or not conversations or not _NUMBER.search(header):
        raise ValueError("expected a record of conversations and a question for the first topic")
    return Record(header, tuple(conversations), ends + closing, topic)


def record_case(
    record: Record,
    request: Request,
    *,
    dataset: str,
    name: str,
    order: Sequence[int] | None = None,
) -> Case:
    """The case of a record, of as many conversations as the room holds.

    Args:
        record: what is asked about.
        request: has the room.
        dataset: of the case.
        name: of the case.
        order: which conversations are taken first, the first one at the front; by default those
            nearest to either end are.

    Raises:
        ValueError: the room does not hold the first conversation.
    """
    plan = outside_in(len(record.conversations)) if order is None else order
    room = request.context_tokens - num_tokens(_prompt(record, (), request), request.tokenizer)
    each = sizes(record.conversations, request.tokenizer)
    indexes = kept(each, plan, room=room)
    if 0 not in indexes:
        raise ValueError(
            f"expected room for the first conversation of {dataset} {name}, {each[0]} tokens, got "
            f"{room} of {request.context_tokens}; give contexts more tokens, or leave {dataset} out"
        )
    if len(indexes) < 2:
        indexes = [*plan[:2]]
    return to_case(
        _prompt(record, [record.conversations[index] for index in indexes], request),
        request,
        dataset=dataset,
        name=name,
        score="topic",
        most_new_tokens=_NEW_TOKENS,
    )


def _prompt(record: Record, conversations: Sequence[str], request: Request) -> Prompt:
    header = _NUMBER.sub(str(len(conversations)), record.header)
    return Prompt(
        header + "".join(conversations),
        record.closing,
        (record.topic,),
        wrapping=template_or(VICUNA, request.tokenizer),
    )
