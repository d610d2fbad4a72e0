"""How an answer is compared with the right ones: numbers from 0, wrong, to 1, right.

The definitions are those of the benchmarks that the datasets come from. LongBench's stand in its
`metrics.py` and `eval.py` (https://github.com/THUDM/LongBench), SQuAD's in `evaluate-v1.1.py`
(https://rajpurkar.github.io/SQuAD-explorer), LongEval's in `longeval/utils.py`
(https://github.com/DachengLi1/LongChat). Several right answers: the best comparison counts.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from rapidfuzz import fuzz

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NUMBERS = re.compile(r"\d+")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
# Lines with one of these are comments, or fences around code.
_NOT_CODE = ("`", "#", "//")


def f1(answer: str, right: str) -> float:
    """SQuAD's F1 of words, which is LongBench's `qa_f1_score`."""
    words, wanted = _words(answer), _words(right)
    same = (Counter(words) & Counter(wanted)).total()
    return 2 * same / (len(words) + len(wanted)) if same else 0.0


def first_line_f1(answer: str, right: str) -> float:
    """The F1 of the first line, as LongBench has it for examples with answers (few-shot)."""
    return f1(_first_line(answer), right)


def code_similarity(answer: str, right: str) -> float:
    """LongBench's `code_sim_score`: likeness of the first line of code, rapidfuzz's `fuzz.ratio`.

    LongBench's library, fuzzywuzzy, has the same ratio rounded to whole percent.
    """
    lines = answer.lstrip("\n").split("\n")
    code = next((line for line in lines if not any(mark in line for mark in _NOT_CODE)), "")
    return fuzz.ratio(code, right) / 100


def topic(answer: str, right: str) -> float:
    """Whether the answer has the topic in it, upper or lower case.

    LongEval leaves the comparison to people or to a paid model.
    """
    return float(right.lower() in answer.lower())


def number(answer: str, right: str) -> float:
    """Whether the answer's first number is the right one.

    LongEval takes the last number: of models that end their answers, where these go on.
    """
    found = _NUMBERS.search(answer)
    return float(found is not None and int(found[0]) == int(right))


def _words(text: str) -> list[str]:
    """Lower case, without punctuation and articles."""
    return _ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split()


def _first_line(text: str) -> str:
    return text.lstrip("\n").split("\n")[0]


def _best(compare: Callable[[str, str], float], answer: str, right: Sequence[str]) -> float:
    return max(compare(answer, one) for one in right)


SCORES: dict[str, Callable[[str, Sequence[str]], float]] = {
    compare.__name__: partial(_best, compare)
    for compare in (f1, first_line_f1, code_similarity, topic, number)
}
