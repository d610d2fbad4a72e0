"""Numbers that others published: theirs, not measured here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

STANDINGS = {
    "stated": "stated in the abstract",
    "read": "read in their published data or code",
    "reported": "reported by notes on it; not checked against the original",
    "recalled": "recalled from memory; not checked against the original",
}


@dataclass(frozen=True, slots=True)
class Published:
    """One number of somebody else.

    Attributes:
        section: of the report, beside whose numbers it stands.
        who: published it, or what it is of.
        where: a figure, a table, a venue.
        what: the number says.
        value: as published.
        setting: under which it was found.
        source: a paper or a file.
        standing: how far it was checked, a key of `STANDINGS`.
    """

    section: str
    who: str
    where: str
    what: str
    value: str
    setting: str
    source: str
    standing: str

    def __post_init__(self) -> None:
        if self.standing not in STANDINGS or not self.source:
            raise ValueError(f"expected a source and one of {sorted(STANDINGS)}, got {self}")

    @property
    def checked(self) -> str:
        """How far it was checked, in words."""
        return STANDINGS[self.standing]


@cache
def published() -> tuple[Published, ...]:
    """All of them."""
    text = files(__package__).joinpath("published.json").read_text(encoding="utf-8")
    return tuple(Published(**one) for one in json.loads(text))


def of_section(section: str) -> tuple[Published, ...]:
    """Those that stand beside a section's numbers."""
    return tuple(one for one in published() if one.section == section)
