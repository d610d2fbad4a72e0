"""NarrativeQA: questions on a whole novel or film script."""

from cachegen.evaluation.datasets.longbench import from_last, longbench

DATASET = longbench(
    "narrativeqa",
    file="narrativeqa",
    split=from_last("\n\nNow, answer the question based on the story"),
    score="f1",
    most_new_tokens=128,
)
