"""Words and phrases of the demo's captions; each word has a lemma and a part of speech."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from data.demo.world.nouns import Noun, nouns

QUALITIES = ("small", "large", "big", "little", "old", "new", "pretty", "bright", "tiny", "huge", "clean", "nice")
STUFF_QUALITIES = ("wet", "dry", "rough", "old", "clean", "dark", "bright")
GROUPS = ("group", "couple", "pair", "bunch", "row", "pile")
SYNONYM_FRACTION = 0.2

Rng = np.random.Generator


@dataclass(frozen=True)
class Entity:
    """Things of one noun, color and pattern in an image, or one kind of stuff.

    Attributes:
        noun: name in the vocabulary.
        kind: "thing" or "stuff".
        colour: key of `COLOURS`; None for stuff.
        pattern: one of `PATTERNS`; None for stuff.
        count: number of things, at least 1; 1 for stuff.
        area: fraction of the image that they cover, in (0, 1].
    """

    noun: str
    kind: str
    colour: str | None
    pattern: str | None
    count: int
    area: float


@dataclass(frozen=True)
class Word:
    """One token.

    Attributes:
        text: text of the token.
        lemma: base form, in lower case.
        pos: universal part of speech.
    """

    text: str
    lemma: str
    pos: str


@dataclass(frozen=True)
class NounSpan:
    """A gold noun inside a phrase.

    Attributes:
        noun: base form of the noun.
        first: index of its first word.
        last: index after its last word.
        visual: True if it can name a region of the image.
    """

    noun: str
    first: int
    last: int
    visual: bool


@dataclass(frozen=True)
class Phrase:
    """Words in order and the nouns among them.

    Phrases are joined with `+`; the result is plural if the first one is.

    Attributes:
        words: words in order.
        nouns: nouns among them, in order.
        plural: True if a verb after it must be plural.
    """

    words: tuple[Word, ...] = ()
    nouns: tuple[NounSpan, ...] = field(default=())
    plural: bool = False

    def __add__(self, other: Phrase) -> Phrase:
        shift = len(self.words)
        moved = tuple(NounSpan(n.noun, n.first + shift, n.last + shift, n.visual) for n in other.nouns)
        return Phrase(self.words + other.words, self.nouns + moved, self.plural)


def say(text: str) -> Phrase:
    """Make a phrase of words that are no nouns, written "text/POS" or "text/lemma/POS".

    Example: `say("is/be/AUX lying/lie/VERB on/ADP")`.
    """
    words = []
    for item in text.split():
        parts = item.split("/")
        words.append(Word(parts[0], (parts[1] if len(parts) == 3 else parts[0]).lower(), parts[-1]))
    return Phrase(tuple(words))


def idle(noun: str) -> Phrase:
    """Make a phrase of a noun that names no region: "photo", "side"."""
    return Phrase((Word(noun, noun, "NOUN"),), (NounSpan(noun, 0, 1, False),))


def noun_words(name: str, text: str) -> Phrase:
    """Make a phrase of a noun that names a region; a compound has several words and is one noun.

    Args:
        name: base form of the noun.
        text: the singular or plural form to write.
    """
    parts, lemmas = text.split(), name.split()
    words = [Word(word, word, "NOUN") for word in parts[:-1]] + [Word(parts[-1], lemmas[-1], "NOUN")]
    return Phrase(tuple(words), (NounSpan(name, 0, len(words), True),))


def lookup(name: str) -> Noun:
    """Return the noun with that name."""
    return next(noun for noun in nouns() if noun.name == name)


def thing(entity: Entity, rng: Rng) -> Phrase:
    """Describe a thing: "a large striped red fish", "two cats", "a group of boats"."""
    name, plural = _synonym(entity, rng)
    adjectives = _adjectives(entity, rng)
    if entity.count > 1 and plural:
        body = Phrase(plural=True) + adjectives + noun_words(name, plural)
        if rng.random() < 0.2:
            return Phrase(plural=True) + say("a/DET") + idle(any_of(GROUPS, rng)) + say("of/ADP") + body
        number = "two/NUM" if entity.count == 2 else "three/NUM" if entity.count == 3 else "many/ADJ"
        return Phrase(plural=True) + say(any_of((number, "several/ADJ", "some/DET", "the/DET"), rng)) + body
    body = adjectives + noun_words(name, name)
    if name == "scissors":
        return say("a/DET") + idle("pair") + say("of/ADP") + body
    article = "an/a/DET" if body.words[0].text[0] in "aeiou" else "a/DET"
    return say(any_of((article, article, article, "the/DET", "one/NUM"), rng)) + body


def stuff(entity: Entity, rng: Rng) -> Phrase:
    """Describe stuff: "the grass", "some wet sand", "brick"."""
    name, _ = _synonym(entity, rng)
    start = say(any_of(("the/DET", "the/DET", "the/DET" if name == "sky" else "some/DET", ""), rng))
    adjective = say(f"{any_of(STUFF_QUALITIES, rng)}/ADJ") if rng.random() < 0.15 else Phrase()
    return start + adjective + noun_words(name, name)


def listed(phrases: Sequence[Phrase], rng: Rng) -> Phrase:
    """Join phrases as "a and b" or "a, b and c", with or without a comma before "and"."""
    joined = Phrase(phrases[0].words, phrases[0].nouns, phrases[0].plural or len(phrases) > 1)
    for i, phrase in enumerate(phrases[1:], start=1):
        last = i == len(phrases) - 1
        comma = say(",/PUNCT") if not last or (len(phrases) > 2 and rng.random() < 0.5) else Phrase()
        joined = joined + comma + (say("and/CCONJ") if last else Phrase()) + phrase
    return joined


def any_of(options: Sequence[str], rng: Rng) -> str:
    """Choose one of the options at random."""
    return options[int(rng.integers(len(options)))]


def _synonym(entity: Entity, rng: Rng) -> tuple[str, str | None]:
    """Choose the name of an entity or sometimes a synonym, singular and plural."""
    noun = lookup(entity.noun)
    if noun.synonyms and rng.random() < SYNONYM_FRACTION:
        return noun.synonyms[int(rng.integers(len(noun.synonyms)))]
    return noun.name, noun.plural


def _adjectives(entity: Entity, rng: Rng) -> Phrase:
    adjectives = Phrase()
    if rng.random() < 0.25:
        adjectives += say(f"{any_of(QUALITIES, rng)}/ADJ")
    if entity.pattern not in (None, "plain") and rng.random() < 0.5:
        adjectives += say(f"{entity.pattern}/ADJ")
    if entity.colour and rng.random() < 0.5:
        shade = f"{any_of(('light', 'dark'), rng)}/ADJ " if rng.random() < 0.1 else ""
        adjectives += say(f"{shade}{entity.colour}/ADJ")
    return adjectives
