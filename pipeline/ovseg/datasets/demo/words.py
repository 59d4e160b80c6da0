"""Words with their tags, and how a row of them becomes a caption with gold tokens and nouns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import NamedTuple


@dataclass(frozen=True)
class Seen:
    """Something that a picture shows and a caption may name.

    Attributes:
        noun: a name in the vocabulary (no synonym).
        kind: "thing" or "stuff".
        colour: a key of `COLOURS`; None for stuff.
        pattern: one of `PATTERNS`; None for stuff.
        count: how many of it, 1 or more; 1 for stuff.
        area: share of the picture that all of them cover together, 0 to 1.
    """

    noun: str
    kind: str
    colour: str | None
    pattern: str | None
    count: int
    area: float


@dataclass(frozen=True)
class Token:
    """One token of a caption, cut as spaCy's English tokenizer does it.

    Attributes:
        text: as it stands in the caption.
        lemma: base form in lower case.
        pos: coarse part of speech of Universal Dependencies ("NOUN", "ADJ", ...).
        space: whether a blank follows.
    """

    text: str
    lemma: str
    pos: str
    space: bool


@dataclass(frozen=True)
class GoldNoun:
    """A noun or a compound in a caption: a maximal run of tokens tagged NOUN.

    Attributes:
        text: lower case, singular, its parts joined by a blank ("traffic light").
        start, end: the characters of the caption that it was read from: `caption.text[start:end]`.
        visual: whether it names something in the picture; False for "photo", "group", "side", ...
    """

    text: str
    start: int
    end: int
    visual: bool


@dataclass(frozen=True)
class Caption:
    """A caption with its gold tags.

    Attributes:
        text: the tokens with their blanks.
        tokens: all of them in order.
        nouns: all of them in order.
    """

    text: str
    tokens: tuple[Token, ...]
    nouns: tuple[GoldNoun, ...]


class Word(NamedTuple):
    """A token before it has a place: `visual` is set on the words of nouns that name something to be seen."""

    text: str
    lemma: str
    pos: str
    visual: bool = False


Words = tuple[Word, ...]

COMMA = Word(",", ",", "PUNCT")
STOP = Word(".", ".", "PUNCT")


@cache
def tagged(notation: str) -> Words:
    """Words from `text/POS` or `text/POS/lemma`, parted by blanks; the lemma is the text in lower case by default.

    Raises:
        ValueError: if a word has no tag.
    """
    made = []
    for item in notation.split():
        text, slash, rest = item.partition("/")
        if not slash:
            raise ValueError(f"{item!r} in {notation!r} has no part of speech")
        pos, _, lemma = rest.partition("/")
        made.append(Word(text, lemma or text.lower(), pos))
    return tuple(made)


def assemble(words: Sequence[Word], capital: bool, stop: bool) -> Caption:
    """The caption of a row of words: with a blank before every word but signs, perhaps a capital and a full stop.

    Raises:
        ValueError: if there is no word.
    """
    if not words:
        raise ValueError("a caption needs at least one word")
    row = [*words, STOP] if stop else list(words)
    if capital:
        row[0] = row[0]._replace(text=row[0].text[:1].upper() + row[0].text[1:])
    follows = [*(word.pos != "PUNCT" for word in row[1:]), False]
    tokens = tuple(Token(w.text, w.lemma, w.pos, space) for w, space in zip(row, follows, strict=True))
    text = "".join(token.text + " " * token.space for token in tokens)
    return Caption(text, tokens, _nouns(row, tokens))


def _nouns(row: Sequence[Word], tokens: Sequence[Token]) -> tuple[GoldNoun, ...]:
    """The maximal runs of words tagged NOUN."""
    starts, place = [], 0
    for token in tokens:
        starts.append(place)
        place += len(token.text) + token.space
    found = []
    for is_noun, run in groupby(range(len(row)), lambda i: row[i].pos == "NOUN"):
        if is_noun:
            of = list(run)
            name = " ".join([*(row[i].text.lower() for i in of[:-1]), row[of[-1]].lemma])
            found.append(GoldNoun(name, starts[of[0]], starts[of[-1]] + len(row[of[-1]].text), row[of[-1]].visual))
    return tuple(found)
