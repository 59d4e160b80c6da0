"""Words and phrases of the demo's captions, each word with its lemma and part of speech."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from data.demo.world.nouns import Noun, nouns

QUALITIES = ("small", "large", "big", "little", "old", "new", "pretty", "bright", "tiny", "huge", "clean", "nice")
STUFF_QUALITIES = ("wet", "dry", "rough", "old", "clean", "dark", "bright")
HEAPS = ("group", "couple", "pair", "bunch", "row", "pile")
SYNONYM_SHARE = 0.2

Rng = np.random.Generator


@dataclass(frozen=True)
class Seen:
    """What a caption can speak of.

    Attributes:
        noun: a name of the vocabulary.
        kind: "thing" or "stuff".
        colour, pattern: how it looks; None for stuff; the pattern may be "plain".
        count: how many of them, at least 1.
        area: their share of the image, in (0, 1].
    """

    noun: str
    kind: str
    colour: str | None
    pattern: str | None
    count: int
    area: float


@dataclass(frozen=True)
class Word:
    """One token: its text, lemma and universal part of speech."""

    text: str
    lemma: str
    pos: str


@dataclass(frozen=True)
class Mark:
    """A gold noun inside a phrase: its lemma form, its first word and the one after its last."""

    noun: str
    first: int
    last: int
    visual: bool


@dataclass(frozen=True)
class Phrase:
    """Words in order with the nouns among them; phrases are joined with `+`, and the first says if they are plural."""

    words: tuple[Word, ...] = ()
    marks: tuple[Mark, ...] = field(default=())
    plural: bool = False

    def __add__(self, other: Phrase) -> Phrase:
        shift = len(self.words)
        moved = tuple(Mark(m.noun, m.first + shift, m.last + shift, m.visual) for m in other.marks)
        return Phrase(self.words + other.words, self.marks + moved, self.plural)


def say(text: str) -> Phrase:
    """Words that name nothing, written "text/POS" or "text/lemma/POS": `say("is/be/AUX lying/lie/VERB on/ADP")`."""
    words = []
    for item in text.split():
        parts = item.split("/")
        words.append(Word(parts[0], (parts[1] if len(parts) == 3 else parts[0]).lower(), parts[-1]))
    return Phrase(tuple(words))


def idle(noun: str) -> Phrase:
    """A noun that names no region: "photo", "side"."""
    return Phrase((Word(noun, noun, "NOUN"),), (Mark(noun, 0, 1, False),))


def noun_words(name: str, text: str) -> Phrase:
    """A noun in its singular or plural `text`; compounds are several words and one noun."""
    parts, lemmas = text.split(), name.split()
    words = [Word(word, word, "NOUN") for word in parts[:-1]] + [Word(parts[-1], lemmas[-1], "NOUN")]
    return Phrase(tuple(words), (Mark(name, 0, len(words), True),))


def lookup(name: str) -> Noun:
    """The noun of that name."""
    return next(noun for noun in nouns() if noun.name == name)


def thing(what: Seen, rng: Rng) -> Phrase:
    """ "a large striped red fish", "two cats", "a group of boats"."""
    name, plural = _named(what, rng)
    look = _look(what, rng)
    if what.count > 1 and plural:
        body = Phrase(plural=True) + look + noun_words(name, plural)
        if rng.random() < 0.2:
            return Phrase(plural=True) + say("a/DET") + idle(any_of(HEAPS, rng)) + say("of/ADP") + body
        number = "two/NUM" if what.count == 2 else "three/NUM" if what.count == 3 else "many/ADJ"
        return Phrase(plural=True) + say(any_of((number, "several/ADJ", "some/DET", "the/DET"), rng)) + body
    body = look + noun_words(name, name)
    if name == "scissors":
        return say("a/DET") + idle("pair") + say("of/ADP") + body
    article = "an/a/DET" if body.words[0].text[0] in "aeiou" else "a/DET"
    return say(any_of((article, article, article, "the/DET", "one/NUM"), rng)) + body


def stuff(what: Seen, rng: Rng) -> Phrase:
    """ "the grass", "some wet sand", "brick"."""
    name, _ = _named(what, rng)
    start = say(any_of(("the/DET", "the/DET", "the/DET" if name == "sky" else "some/DET", ""), rng))
    look = say(f"{any_of(STUFF_QUALITIES, rng)}/ADJ") if rng.random() < 0.15 else Phrase()
    return start + look + noun_words(name, name)


def listed(phrases: Sequence[Phrase], rng: Rng) -> Phrase:
    """ "a", "a and b", "a, b and c", with or without the last comma."""
    whole = Phrase(phrases[0].words, phrases[0].marks, phrases[0].plural or len(phrases) > 1)
    for i, phrase in enumerate(phrases[1:], start=1):
        last = i == len(phrases) - 1
        comma = say(",/PUNCT") if not last or (len(phrases) > 2 and rng.random() < 0.5) else Phrase()
        whole = whole + comma + (say("and/CCONJ") if last else Phrase()) + phrase
    return whole


def any_of(options: Sequence[str], rng: Rng) -> str:
    """One of the options."""
    return options[int(rng.integers(len(options)))]


def _named(what: Seen, rng: Rng) -> tuple[str, str | None]:
    """The word for it, singular and plural: its name, or now and then a synonym."""
    noun = lookup(what.noun)
    if noun.synonyms and rng.random() < SYNONYM_SHARE:
        return noun.synonyms[int(rng.integers(len(noun.synonyms)))]
    return noun.name, noun.plural


def _look(what: Seen, rng: Rng) -> Phrase:
    look = Phrase()
    if rng.random() < 0.25:
        look += say(f"{any_of(QUALITIES, rng)}/ADJ")
    if what.pattern not in (None, "plain") and rng.random() < 0.5:
        look += say(f"{what.pattern}/ADJ")
    if what.colour and rng.random() < 0.5:
        shade = f"{any_of(('light', 'dark'), rng)}/ADJ " if rng.random() < 0.1 else ""
        look += say(f"{shade}{what.colour}/ADJ")
    return look
