"""Words that no message may show: what a URL or the environment gives to prove who asks."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import quote, unquote

# Of a message. Arbitrary: 100 to 1,000 do; a line or two.
_REASON_LENGTH = 300
# Shorter ones occur in any text. Arbitrary: 3 to 8 do; nobody should use such a short secret.
_LEAST_LENGTH = 4


@dataclass(frozen=True, slots=True)
class Secrets:
    """The secrets of one store.

    Attributes:
        words: as they are given, or sent.
    """

    words: tuple[str, ...] = field(default=(), repr=False)

    def hidden_in(self, text: str) -> str:
        """The first line of a text, cut, with dots for every secret, escaped or not."""
        return self._replaced(text).partition("\n")[0][:_REASON_LENGTH]

    def cause(self, error: Exception) -> Exception | None:
        """The error to chain to ours; None if its text, which tracebacks show, has a secret."""
        link: BaseException | None = error
        while link is not None:
            if self._replaced(str(link)) != str(link):
                return None
            link = link.__cause__ or link.__context__
        return error

    def _replaced(self, text: str) -> str:
        forms = {
            form
            for word in self.words
            for form in (word, unquote(word), quote(word), quote(word, safe=""))
            if len(form) >= _LEAST_LENGTH
        }
        for form in sorted(forms, key=len, reverse=True):
            text = text.replace(form, "...")
        return text
