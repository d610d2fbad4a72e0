"""MultiFieldQA in English: questions on articles, laws, reports."""

from cachegen.evaluation.datasets.longbench import from_last, longbench

DATASET = longbench(
    "multifieldqa",
    file="multifieldqa_en",
    split=from_last("\n\nNow, answer the following question"),
    score="f1",
    most_new_tokens=64,
)
