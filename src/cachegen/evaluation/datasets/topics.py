"""LongEval's records of 5 and of 10 topics: for models with short contexts."""

from __future__ import annotations

from cachegen.engines.transformers.text_windows import evenly
from cachegen.evaluation.case import Case
from cachegen.evaluation.datasets.conversations import read_records, record_case
from cachegen.evaluation.datasets.dataset import Dataset, Request

_NAME = "topics"
_FILES = {5: "longchat/5_topics.jsonl", 10: "longchat/10_topics.jsonl"}


def _load(request: Request) -> list[Case]:
    records = []
    for num_topics, file in _FILES.items():
        found = read_records(request.data / file, topics="topics")
        records += [(f"{num_topics}-{index:03}", record) for index, record in enumerate(found)]
    return [
        record_case(record, request, dataset=_NAME, name=name)
        for name, record in evenly(records, request.count)
    ]


DATASET = Dataset(_NAME, tuple(_FILES.values()), _load)
