"""TriviaQA: short answers from a passage behind some others, which are examples with answers."""

from cachegen.evaluation.datasets.longbench import from_last, longbench

DATASET = longbench(
    "triviaqa",
    file="triviaqa",
    split=from_last("Question:\n"),
    score="first_line_f1",
    most_new_tokens=32,
    is_wrapped=False,
)
