"""LCC: the next line of a source file."""

from cachegen.evaluation.datasets.longbench import longbench

_ASKED = "\nNext line of code:\n"


def _last_line(prompt: str) -> int:
    """The last line of code is read behind the context, with what asks for the next one."""
    return prompt.rindex("\n", 0, prompt.rindex(_ASKED)) + 1


DATASET = longbench(
    "lcc",
    file="lcc",
    split=_last_line,
    score="code_similarity",
    most_new_tokens=64,
    is_wrapped=False,
)
