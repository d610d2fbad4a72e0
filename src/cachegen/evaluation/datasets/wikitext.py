"""WikiText-2: articles of its validation part, and what follows in them.

Of its 60 articles those that no profile of `make models` and no baseline learns from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from cachegen.engines.transformers.tasks import first_tokens
from cachegen.engines.transformers.text_windows import evenly
from cachegen.evaluation.case import Case
from cachegen.evaluation.datasets.dataset import Dataset, Request
from cachegen.evaluation.datasets.prompts import ids
from cachegen.evaluation.texts import WIKITEXT, articles_held_out

_NAME = "wikitext"
# Tokens that are predicted behind a context: some paragraphs. Arbitrary: 128 to 1,024 do.
_FOLLOWING_TOKENS = 256


def _load(request: Request) -> list[Case]:
    """A case an article: from its heading on, into the next ones where it is short.

    After the last article comes the first.
    """
    articles = articles_held_out(request.data, lambda text: len(ids(text, request.tokenizer)))
    tokens = [ids(f" {text} \n", request.tokenizer) for text in articles]
    first, total = first_tokens(request.tokenizer), sum(map(len, tokens))
    num_tokens = request.context_tokens - len(first)
    if not _FOLLOWING_TOKENS < num_tokens <= total:
        raise ValueError(
            f"expected more than {_FOLLOWING_TOKENS} tokens for a context with what follows, and "
            f"as many in the articles of {WIKITEXT} that nothing is learned from; got {num_tokens} "
            f"and {total}; leave {_NAME} out, or give contexts of other lengths"
        )
    cases = []
    for index in evenly(range(len(articles)), request.count):
        stream = tuple(islice(_from(index, tokens), num_tokens))
        cases.append(
            Case(
                dataset=_NAME,
                name=f"{index:02} {_heading(articles[index])}",
                context=(*first, *stream[:-_FOLLOWING_TOKENS]),
                following=stream[-_FOLLOWING_TOKENS:],
            )
        )
    return cases


def _from(index: int, articles: Sequence[Sequence[int]]) -> Iterator[int]:
    for article in (*articles[index:], *articles[:index]):
        yield from article


def _heading(article: str) -> str:
    return article.strip().partition("\n")[0].strip(" =")


DATASET = Dataset(_NAME, (WIKITEXT,), _load)
