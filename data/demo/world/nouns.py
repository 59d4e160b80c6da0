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
        name: singular in lower case; may be a compound ("traffic light").
        plural: plural; None for stuff, which cannot be counted.
        kind: "thing" or "stuff".
        annotated: True if the class belongs to the closed vocabulary, whose masks are annotated; the other classes occur in
            captions alone.
        synonyms: other names of the class, as (singular, plural).
    """

    name: str
    plural: str | None
    kind: str
    annotated: bool
    synonyms: tuple[tuple[str, str | None], ...]


@cache
def nouns() -> tuple[Noun, ...]:
    """Return all nouns in the order of vocabulary.json; the category id of a noun is its position + 1."""
    text = resources.files(__package__).joinpath("vocabulary.json").read_text(encoding="utf-8")
    return tuple(
        Noun(**{**row, "synonyms": tuple((s["name"], s["plural"]) for s in row["synonyms"])})
        for row in json.loads(text)
    )
