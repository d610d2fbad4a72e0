"""What every dataset gives: a context, and what is read or asked behind it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Case:
    """One context of a dataset.

    Attributes:
        dataset: name, as `--datasets` and the rows say it.
        name: of the case, single in its dataset and the same in every run.
        context: token ids whose cache is coded, first tokens of the model included.
        question: token ids read behind the context, before an answer; empty where nothing is asked.
        answers: texts of which one is right; empty where nothing is asked.
        following: token ids of the text that really follows, whose perplexity is measured where
            nothing is asked; empty where something is.
        most_new_tokens: of an answer; 0 where nothing is asked.
        score: name of the measure in `scores.SCORES` that compares an answer with the right ones;
            empty where nothing is asked.
    """

    dataset: str
    name: str
    context: tuple[int, ...]
    question: tuple[int, ...] = ()
    answers: tuple[str, ...] = ()
    following: tuple[int, ...] = ()
    most_new_tokens: int = 0
    score: str = ""

    def __post_init__(self) -> None:
        asks = (bool(self.question), bool(self.answers), self.most_new_tokens > 0, bool(self.score))
        if len(set(asks)) > 1 or asks[0] == bool(self.following) or not self.context:
            raise ValueError(
                f"expected a context with a question, answers, a score and tokens for an answer, "
                f"or with following text; got {self.dataset} {self.name}"
            )
