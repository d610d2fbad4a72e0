"""Qasper: questions on a scientific article."""

from cachegen.evaluation.datasets.longbench import from_last, longbench

DATASET = longbench(
    "qasper",
    file="qasper",
    split=from_last("\n\nAnswer the question based on the"),
    score="f1",
    most_new_tokens=128,
)
