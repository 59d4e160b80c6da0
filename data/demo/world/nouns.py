"""The demo's nouns: 62 things and 20 kinds of stuff, about half of them annotated (the closed vocabulary)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources


@dataclass(frozen=True)
class Noun:
    """One class of the demo.

    Attributes:
        name: lower-case singular; may be a compound ("traffic light").
        plural: None for stuff, which is not counted.
        kind: "thing" or "stuff".
        annotated: whether the training split's closed vocabulary holds it; the rest are named by captions alone.
        synonyms: other words for the same class, as (name, plural).
    """

    name: str
    plural: str | None
    kind: str
    annotated: bool
    synonyms: tuple[tuple[str, str | None], ...]


@cache
def nouns() -> tuple[Noun, ...]:
    """Every noun in the order of the data file; the place in it + 1 is the category id."""
    text = resources.files(__package__).joinpath("vocabulary.json").read_text(encoding="utf-8")
    return tuple(
        Noun(**{**row, "synonyms": tuple((s["name"], s["plural"]) for s in row["synonyms"])})
        for row in json.loads(text)
    )
