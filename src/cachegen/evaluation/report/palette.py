"""Colours of the report, for light and dark paper; pictures name them, the style sheet gives them.

Series colours keep apart for colour-blind readers by lightness as well as hue, and hold 4.5:1
against the paper, because names are written in them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# CSS variable: colour on light paper, colour on dark paper.
COLOURS = {
    "paper": ("#ffffff", "#14181d"),
    "ink": ("#1a1f26", "#e8ecf1"),
    "muted": ("#59636f", "#9fabb8"),
    "rule": ("#dde2e8", "#2d353f"),
    "card": ("#f5f7f9", "#1c2229"),
    "link": ("#0b57d0", "#8ab4ff"),
    "s0": ("#0b57d0", "#7fb0ff"),
    "s1": ("#c0390b", "#ff8f66"),
    "s2": ("#00766c", "#35c9b4"),
    "s3": ("#8a2f9b", "#e09bee"),
    "s4": ("#8a6100", "#e8b93c"),
    "s5": ("#a8184f", "#ff86ae"),
    "s6": ("#3f4a56", "#c3ccd6"),
    "other": ("#67717d", "#8e9aa7"),
}
# Methods and policies that have their own colour in every picture, by how their names begin; this
# package's are first.
_KNOWN = {
    "cachegen": "s0",
    "adaptive": "s0",
    "kvtc": "s1",
    "kvserve": "s2",
    "paper": "s3",
    "algorithm": "s3",
    "uniform": "s4",
    "raw": "s5",
    "kivi": "s5",
    "text": "s6",
}
_MARKERS = {"s0": "o", "s1": "s", "s2": "^", "s3": "D", "s4": "v", "s5": "P", "s6": "X"}


@dataclass(frozen=True, slots=True)
class Look:
    """How a series is drawn: a colour's name, a marker, whether the line is broken."""

    colour: str
    marker: str
    dashed: bool = False

    @property
    def is_named(self) -> bool:
        """Whether it has a colour of its own."""
        return self.colour != "other"


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for every method or policy, the same in all pictures."""
    found: dict[str, Look] = {}
    for name in names:
        begins = (slot for known, slot in _KNOWN.items() if name.lower().startswith(known))
        slot = next(begins, "other")
        taken = sum(look.colour == slot for look in found.values())
        found[name] = Look(slot, _MARKERS.get(slot, "."), dashed=slot != "other" and taken > 0)
    return found


def sentinel(name: str) -> str:
    """The colour that matplotlib is given in a variable's place."""
    return f"#01{list(COLOURS).index(name):02x}f1"


def with_variables(svg: str) -> str:
    """A picture whose stand-in colours are variables of the style sheet."""
    for name in COLOURS:
        svg = svg.replace(sentinel(name), f"var(--{name})")
    return svg


def style_variables(*, dark: bool) -> str:
    """The declarations of all variables."""
    return " ".join(f"--{name}: {pair[dark]};" for name, pair in COLOURS.items())
