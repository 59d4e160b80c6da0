"""The parts that captions are made of: noun phrases, places and verbs, each a row of tagged words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np

from ovseg.datasets.demo.nouns import Noun, nouns
from ovseg.datasets.demo.words import COMMA, Seen, Word, Words, tagged

T = TypeVar("T")

SYNONYM_SHARE = 0.2
_NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_UNCOUNTED = (
    "several/ADJ", "some/DET", "many/ADJ", "a/DET group/NOUN of/ADP", "a/DET bunch/NOUN of/ADP",
    "a/DET number/NOUN of/ADP", "lots/NOUN/lot of/ADP", "a/DET lot/NOUN of/ADP",
)  # fmt: skip
_SORTS = {
    "animal": "cat snail turtle snake rabbit spider crab elephant",
    "flier": "bird butterfly",
    "swimmer": "fish",
    "light": "star moon sun",
    "plant": "tree flower mushroom cactus",
    "airborne": "balloon kite rocket airplane",
    "vehicle": "car bus bicycle train",
    "boat": "boat",
    "building": "house castle windmill",
    "food": "apple banana carrot pizza cake watermelon",
}
_TRAITS = {
    "animal": "cute little young", "flier": "pretty little colorful", "swimmer": "colorful pretty strange",
    "light": "bright beautiful", "plant": "beautiful tall pretty", "airborne": "colorful bright",
    "vehicle": "old new shiny modern", "boat": "old wooden small", "building": "old tall beautiful",
    "food": "fresh tasty ripe delicious", "object": "old new pretty shiny simple",
}  # fmt: skip
_TINTED = ("red", "green", "blue", "brown", "pink", "purple", "grey")  # of which one says "light" or "dark"
_PATTERN_WORDS = {"striped": ("striped",), "spotted": ("spotted", "dotted"), "checked": ("checked", "checkered")}


@dataclass(frozen=True)
class Verb:
    """A verb that says what a thing does, by itself.

    Attributes:
        third, base, ing: "sits", "sit", "sitting".
        way: where it can happen: "on" what is below, "over" it, or "in" water.
    """

    third: str
    base: str
    ing: str
    way: str


@dataclass(frozen=True)
class Phrase:
    """A noun phrase; `plural` says which form a verb takes after it, `sort` and `count` which verbs suit."""

    words: Words
    plural: bool
    sort: str
    count: int = 1


def _verbs(notation: str) -> tuple[Verb, ...]:
    return tuple(Verb(*item.split("/")) for item in notation.split())


_VERBS = {
    "animal": _verbs("sits/sit/sitting/on rests/rest/resting/on lies/lie/lying/on walks/walk/walking/on "
                     "stands/stand/standing/on hides/hide/hiding/on waits/wait/waiting/on"),
    "flier": _verbs("flies/fly/flying/over hovers/hover/hovering/over sits/sit/sitting/on lands/land/landing/on"),
    "swimmer": _verbs("swims/swim/swimming/in floats/float/floating/in lies/lie/lying/on rests/rest/resting/on"),
    "light": _verbs("shines/shine/shining/over glows/glow/glowing/over hangs/hang/hanging/over"),
    "plant": _verbs("grows/grow/growing/on stands/stand/standing/on"),
    "airborne": _verbs("flies/fly/flying/over floats/float/floating/over hovers/hover/hovering/over "
                       "lands/land/landing/on"),
    "vehicle": _verbs("stands/stand/standing/on waits/wait/waiting/on moves/move/moving/on stops/stop/stopping/on"),
    "boat": _verbs("floats/float/floating/in rocks/rock/rocking/in drifts/drift/drifting/in lies/lie/lying/on "
                   "sails/sail/sailing/in rests/rest/resting/on"),
    "building": _verbs("stands/stand/standing/on rises/rise/rising/on towers/tower/towering/over"),
    "food": _verbs("lies/lie/lying/on sits/sit/sitting/on rests/rest/resting/on"),
    "object": _verbs("lies/lie/lying/on stands/stand/standing/on rests/rest/resting/on sits/sit/sitting/on"),
}  # fmt: skip
_FLUIDS, _UPRIGHT, _COUNTED = (
    ("water", "lava"),
    ("brick", "fence", "wallpaper", "ivy"),
    ("fence", "carpet", "rug", "lawn"),
)
_STUFF_TRAITS = {
    "grass": "green tall", "lawn": "green", "water": "blue deep", "brick": "red", "sky": "blue clear", "snow": "white",
    "wood": "brown", "ivy": "green", "asphalt": "grey dark", "lava": "hot glowing", "mud": "brown wet", "dirt": "brown",
    "straw": "yellow dry", "hay": "yellow dry", "metal": "shiny grey", "sand": "dry soft", "stone": "grey hard",
    "fence": "long wooden", "marble": "smooth", "gravel": "grey", "tile": "smooth", "carpet": "soft", "rug": "soft",
    "wallpaper": "floral",
}  # fmt: skip
_PLACES = {
    ("ground", "on"): "on on on on on on near", ("ground", "over"): "over above over above near",
    ("ground", "in"): "on on near", ("fluid", "on"): "in on near by", ("fluid", "over"): "over above near",
    ("fluid", "in"): "in on in", ("upright", "on"): "against near by beside before behind",
    ("upright", "over"): "over near above behind", ("upright", "in"): "near by beside",
    ("sky", "on"): "under below against", ("sky", "over"): "in in across against", ("sky", "in"): "under below",
}  # fmt: skip
_BETWEEN = (
    "near/ADP", "near/ADP", "beside/ADP", "by/ADP", "next/ADV to/ADP", "next/ADV to/ADP", "close/ADV to/ADP",
    "in/ADP front/NOUN of/ADP", "behind/ADP", "above/ADP", "below/ADP", "to/ADP the/DET left/NOUN of/ADP",
    "on/ADP top/NOUN of/ADP", "on/ADP the/DET right/ADJ side/NOUN of/ADP", "along/ADP with/ADP", "under/ADP",
    "alongside/ADP", "across/ADP from/ADP",
)  # fmt: skip


def pick(options: Sequence[T], rng: np.random.Generator) -> T:
    """One of `options` (at least one), each equally likely."""
    return options[int(rng.integers(len(options)))]


def chance(share: float, rng: np.random.Generator) -> bool:
    """True with the probability `share` (0 to 1)."""
    return bool(rng.random() < share)


@cache
def _entries() -> dict[str, Noun]:
    return {noun.name: noun for noun in nouns()}


@cache
def _sorts() -> dict[str, str]:
    return {name: sort for sort, names in _SORTS.items() for name in names.split()}


def sort_of(noun: str) -> str:
    """Which verbs and traits suit a thing of the vocabulary: a key of `_VERBS`, "object" if nothing special is known."""
    return _sorts().get(noun, "object")


def name_words(noun: str, plural: bool, rng: np.random.Generator) -> Words:
    """A noun of the vocabulary or, `SYNONYM_SHARE` of the times, one of its synonyms, tagged and marked as visual.

    Raises:
        KeyError: if the vocabulary does not hold it.
    """
    entry = _entries()[noun]
    single, many = entry.name, entry.plural
    if entry.synonyms and chance(SYNONYM_SHARE, rng):
        single, many = pick(entry.synonyms, rng)
    texts = (many if plural and many else single).split()
    return tuple(Word(text, lemma, "NOUN", True) for text, lemma in zip(texts, single.split(), strict=True))


def adjectives(seen: Seen, sort: str, rng: np.random.Generator) -> Words:
    """None to four adjectives that are true of a thing: a trait, its size, and its pattern and colour in any order."""
    each = seen.area / seen.count
    before, looks = [], [*colour_words(seen, 0.55, rng)]
    if chance(0.12, rng):
        before.append(pick(_TRAITS[sort].split(), rng))
    if chance(0.3, rng) and (each > 0.18 or each < 0.05):
        before.insert(0, pick(("large", "big", "huge") if each > 0.18 else ("small", "little", "tiny"), rng))
    if seen.pattern in _PATTERN_WORDS and chance(0.6, rng):
        looks.insert(int(rng.integers(2)) * len(looks), pick(_PATTERN_WORDS[seen.pattern], rng))
    made: list[Word] = []
    for text in dict.fromkeys([*before, *looks]):
        if len(made) == 1 and not looks[1:] and chance(0.06, rng):
            made.append(COMMA)
        made.append(Word(text, text, "ADJ"))
    return tuple(made)


def colour_words(seen: Seen, share: float, rng: np.random.Generator) -> tuple[str, ...]:
    """The colour of a thing, at times with its tint ("light", "blue"); empty if it has none, or by chance."""
    if seen.colour is None or not chance(share, rng):
        return ()
    colour = "gray" if seen.colour == "grey" and chance(0.3, rng) else seen.colour
    return (pick(("light", "dark", "bright"), rng), colour) if colour in _TINTED and chance(0.1, rng) else (colour,)


def thing(seen: Seen, rng: np.random.Generator, definite: bool = False, plain: bool = False) -> Phrase:
    """The noun phrase of a thing: amount, adjectives, noun.

    Args:
        seen: a thing.
        rng: source of all variation.
        definite: "the cat", "the two cats".
        plain: without adjectives.
    """
    sort = sort_of(seen.noun)
    words = () if plain else adjectives(seen, sort, rng)
    words += name_words(seen.noun, seen.count > 1 or seen.noun == "scissors", rng)
    if seen.noun == "scissors":
        return _scissors(seen, words, definite, rng)
    if seen.count == 1:
        return Phrase(_single(words, definite, rng) + words, False, sort)
    amount = "the/DET" if definite else _amount(seen.count, rng)
    if definite and seen.count <= 4 and chance(0.4, rng):
        amount += f" {_NUMBERS[seen.count - 2]}/NUM"
    grouped = any(f"{name}/NOUN" in amount for name in ("pair", "group", "bunch"))
    return Phrase(tagged(amount) + words, not (grouped and chance(0.4, rng)), sort, seen.count)


def article(words: Words) -> Words:
    """ "a" or "an", as the first of `words` asks for."""
    return tagged("an/DET/a" if words[0].text[0] in "aeiou" else "a/DET")


def _single(words: Words, definite: bool, rng: np.random.Generator) -> Words:
    """What stands before a single thing."""
    draw = rng.random()
    if definite or draw < 0.07:
        return tagged("the/DET")
    if draw < 0.11:
        return tagged("one/NUM" if draw < 0.09 else "a/DET single/ADJ")
    return tagged("another/DET") if draw < 0.115 else article(words)


def _amount(count: int, rng: np.random.Generator) -> str:
    """What stands before several things (`count` of 2 or more), tagged; often the number itself."""
    if count == 2 and chance(0.3, rng):
        return pick(("a/DET pair/NOUN of/ADP", "a/DET couple/NOUN of/ADP", "some/DET"), rng)
    if count <= len(_NUMBERS) + 1 and chance(0.65 if count < 6 else 0.3, rng):
        return f"{_NUMBERS[count - 2]}/NUM"
    if count == 2:
        return pick(("two/NUM", "two/NUM", ""), rng)
    if count < 5 and chance(0.4, rng):
        return pick(("a/DET few/ADJ", "some/DET", "several/ADJ"), rng)
    return pick((*_UNCOUNTED, ""), rng) if count > 3 else pick(("several/ADJ", "a/DET group/NOUN of/ADP", ""), rng)


def _scissors(seen: Seen, words: Words, definite: bool, rng: np.random.Generator) -> Phrase:
    """Scissors come in pairs: "a pair of scissors", "two pairs of scissors"."""
    if seen.count > 1:
        amount = "the/DET" if definite else "some/DET"
        if seen.count <= len(_NUMBERS) + 1 and not definite:
            amount = f"{_NUMBERS[seen.count - 2]}/NUM pairs/NOUN/pair of/ADP"
        return Phrase(tagged(amount) + words, True, "object", seen.count)
    if definite or chance(0.3, rng):
        return Phrase(tagged("the/DET" if definite else "some/DET") + words, True, "object")
    return Phrase(tagged("a/DET pair/NOUN of/ADP") + words, chance(0.4, rng), "object")


def stuff(seen: Seen, rng: np.random.Generator, bare: bool = False) -> Words:
    """The noun phrase of stuff: "the green grass", "sand", "a rug"; `bare` leaves out "the" and "some" if it can."""
    noun = name_words(seen.noun, False, rng)
    text = noun[0].text
    words = noun
    if chance(0.15, rng):
        adjective = pick(_STUFF_TRAITS.get(text, "smooth").split(), rng)
        words = (Word(adjective, adjective, "VERB" if adjective == "glowing" else "ADJ"), *noun)
        if adjective == "glowing":
            words = (Word("glowing", "glow", "VERB"), *noun)
    if text in _COUNTED:
        return (article(words) if chance(0.6, rng) else tagged("the/DET")) + words
    if text == "sky":
        return (article(words) if len(words) > 1 and chance(0.6, rng) else tagged("the/DET")) + words
    draw = 1.0 if bare else rng.random()
    return tagged("the/DET" if draw < 0.5 else "some/DET" if draw < 0.58 else "") + words


def place(seen: Seen, rng: np.random.Generator, way: str = "on") -> Words:
    """Where something is with respect to stuff: "on the grass", "in front of ivy", "under a blue sky".

    Args:
        seen: stuff.
        rng: source of all variation.
        way: as in `Verb`.
    """
    kind = "ground"
    if seen.noun == "sky":
        kind = "sky"
    elif seen.noun in _FLUIDS:
        kind = "fluid"
    elif seen.noun in _UPRIGHT:
        kind = "upright"
    where = tagged(f"{pick(_PLACES[kind, way].split(), rng)}/ADP")
    if kind == "upright" and chance(0.3, rng):
        where = tagged("in/ADP front/NOUN of/ADP")
    return where + stuff(seen, rng)


def background(seen: Seen, rng: np.random.Generator) -> Words:
    """Stuff as a background: "with grass in the background", "against a background of ivy"."""
    if seen.noun not in ("sky", "fence", "carpet") and chance(0.15, rng):
        return tagged("against/ADP a/DET background/NOUN of/ADP") + stuff(seen, rng, bare=True)
    ends = ("in/ADP the/DET background/NOUN", "in/ADP the/DET background/NOUN", "in/ADP the/DET distance/NOUN",
            "all/ADV around/ADV", "in/ADP the/DET foreground/NOUN", "behind/ADV")  # fmt: skip
    return tagged("with/ADP") + stuff(seen, rng) + tagged(pick(ends, rng))


def relation(rng: np.random.Generator) -> Words:
    """How two things lie to each other: "next to", "in front of"; most often without a claim that could be wrong."""
    return tagged(pick(_BETWEEN[:7] if chance(0.6, rng) else _BETWEEN, rng))


def verb_for(sort: str, ground: Seen | None, rng: np.random.Generator) -> Verb:
    """A verb for what a thing does; swimming and sailing only happen in water or where no ground is named."""
    wet = ground is None or ground.noun in _FLUIDS
    return pick([verb for verb in _VERBS[sort] if wet or verb.way != "in"], rng)


def finite(verb: Verb, plural: bool) -> Words:
    """The verb in the present: "sits" or "sit"."""
    return (Word(verb.base if plural else verb.third, verb.base, "VERB"),)


def ing(verb: Verb) -> Words:
    """The verb's participle: "sitting"."""
    return (Word(verb.ing, verb.base, "VERB"),)


def be(plural: bool, pos: str = "AUX") -> Words:
    """The word "is" or "are", as auxiliary and copula (AUX) or after "there" (VERB)."""
    return (Word("are" if plural else "is", "be", pos),)


def series(items: Sequence[Words], rng: np.random.Generator) -> Words:
    """Two or more phrases in a list with "and": "a, b and c", at times with a comma before "and"."""
    made: Words = items[0]
    for item in items[1:-1]:
        made += (COMMA, *item)
    comma = (COMMA,) if len(items) > 2 and chance(0.4, rng) else ()
    return made + comma + tagged("and/CCONJ") + items[-1]
