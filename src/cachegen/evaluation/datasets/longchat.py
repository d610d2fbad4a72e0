"""LongChat as CacheGen was measured on: its published prompts, then generated ones like them."""

from __future__ import annotations

import random

from cachegen.engines.transformers.text_windows import evenly
from cachegen.evaluation.case import Case
from cachegen.evaluation.datasets.conversations import Record, read_records, record_case
from cachegen.evaluation.datasets.dataset import Dataset, Request
from cachegen.evaluation.datasets.files import rows

_NAME = "longchat"
_PUBLISHED = "longchat/cachegen_longchat.jsonl"
_SOURCES = "longchat/conversations.jsonl"


def _load(request: Request) -> list[Case]:
    published = read_records(request.data / _PUBLISHED, topics="label")
    records = [(f"published-{index:03}", record) for index, record in enumerate(published)]
    cases = [
        record_case(record, request, dataset=_NAME, name=name)
        for name, record in evenly(records, request.count)
    ]
    return cases + _generated(request, like=published[0], count=request.count - len(cases))


def _generated(request: Request, *, like: Record, count: int) -> list[Case]:
    """Records of conversations in random order, as many as the room holds."""
    if count < 1:
        return []
    sources = rows(request.data / _SOURCES, keys=("topic", "conversation"))
    cases = []
    for index in range(count):
        mixed = sources[:]
        random.Random(f"{_NAME}/{request.seed}/{index}").shuffle(mixed)
        record = Record(
            like.header,
            tuple(source["conversation"] for source in mixed),
            like.closing,
            mixed[0]["topic"],
        )
        name, order = f"generated-{request.seed}-{index:03}", range(len(mixed))
        cases.append(record_case(record, request, dataset=_NAME, name=name, order=order))
    return cases


DATASET = Dataset(_NAME, (_PUBLISHED, _SOURCES), _load)
