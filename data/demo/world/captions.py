"""The demo's captions, in the manner of COCO's. Each comes with its gold tokens and gold nouns.

A caption names only a part of what the image shows. Plurals, compounds, adjectives, synonyms and nouns that name no region
("photo", "group", "side") make the extraction of nouns non-trivial. Two nouns are adjacent only inside a compound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from data.demo.world.colours import COLOURS, PATTERNS
from data.demo.world.nouns import nouns
from data.demo.world.wording import Entity, Phrase, idle, listed, say, stuff, thing

MAX_THINGS = 3  # largest number of different things in one caption
STUFF_FRACTION = 0.6  # fraction of captions that name the ground
FREQUENT = 3.0  # weight of an annotated noun in `imagine`; the others have weight 1

Rng = np.random.Generator


@dataclass(frozen=True)
class Token:
    """One token of a caption.

    Attributes:
        text: text of the token.
        lemma: base form, in lower case.
        pos: universal part of speech.
        space: True if a space follows.
    """

    text: str
    lemma: str
    pos: str
    space: bool


@dataclass(frozen=True)
class GoldNoun:
    """A noun of a caption.

    Attributes:
        text: base form of the noun.
        start, end: its character span in the caption.
        visual: True if it can name a region of the image.
    """

    text: str
    start: int
    end: int
    visual: bool


@dataclass(frozen=True)
class Caption:
    """A caption with its gold tokens and nouns."""

    text: str
    tokens: tuple[Token, ...]
    nouns: tuple[GoldNoun, ...]


def write_caption(entities: Sequence[Entity], rng: Rng) -> Caption:
    """Write one caption of an image; large things are named more often.

    Args:
        entities: contents of the image, at least one.
        rng: source of all choices.
    """
    things = [entity for entity in entities if entity.kind == "thing"]
    ground = [entity for entity in entities if entity.kind == "stuff"]
    subjects = [thing(entity, rng) for entity in _choose(things, rng)]
    floor = None
    if ground and (not subjects or rng.random() < STUFF_FRACTION):
        floor = stuff(ground[int(rng.choice(len(ground), p=_weights(ground)))], rng)
    return _finish(_sentence(subjects, floor, rng), rng)


def imagine(rng: Rng) -> list[Entity]:
    """Choose contents of an image without drawing it: one to four things, one or two kinds of stuff."""
    by_kind = {kind: [n for n in nouns() if n.kind == kind] for kind in ("thing", "stuff")}
    entities = []
    for kind, max_number in (("thing", 4), ("stuff", 2)):
        weight = np.array([FREQUENT if n.annotated else 1.0 for n in by_kind[kind]])
        number = int(rng.integers(1, max_number + 1))
        for i in rng.choice(len(weight), number, replace=False, p=weight / weight.sum()):
            colour, pattern = (
                (str(rng.choice(list(COLOURS))), str(rng.choice(PATTERNS))) if kind == "thing" else (None, None)
            )
            count = int(rng.choice([1, 2, 3], p=[0.75, 0.15, 0.1])) if kind == "thing" else 1
            area = float(rng.uniform(0.02, 0.5))
            entities.append(Entity(by_kind[kind][i].name, kind, colour, pattern, count, area))
    return entities


def _choose(things: Sequence[Entity], rng: Rng) -> list[Entity]:
    if len(things) <= 1:
        return list(things)
    number = int(rng.integers(1, min(len(things), MAX_THINGS) + 1))
    return [things[i] for i in rng.choice(len(things), number, replace=False, p=_weights(things))]


def _weights(entities: Sequence[Entity]) -> np.ndarray:
    area = np.array([max(entity.area, 1e-3) ** 0.5 for entity in entities])
    return np.asarray(area / area.sum())


def _sentence(subjects: list[Phrase], floor: Phrase | None, rng: Rng) -> Phrase:
    if not subjects:
        assert floor is not None
        return _pick(EMPTY, rng)(floor, rng)
    if len(subjects) == 1:
        return _pick(ONE_ON if floor else ONE, rng)(subjects[0], floor or Phrase(), rng)
    if len(subjects) == 2 and rng.random() < 0.7:
        return _pick(TWO_ON if floor else TWO, rng)(subjects[0], subjects[1], floor or Phrase(), rng)
    return _pick(ONE_ON if floor else ONE, rng)(listed(subjects, rng), floor or Phrase(), rng)


def _pick(options: Sequence[Callable[..., Phrase]], rng: Rng) -> Callable[..., Phrase]:
    return options[int(rng.integers(len(options)))]


def _is(phrase: Phrase) -> Phrase:
    return say("are/be/AUX" if phrase.plural else "is/be/AUX")


def _posture(phrase: Phrase, rng: Rng) -> Phrase:
    """ "sits on", "are lying on", "resting on"."""
    verbs = [
        ("sits", "sit", "sitting"),
        ("stands", "stand", "standing"),
        ("lies", "lie", "lying"),
        ("rests", "rest", "resting"),
    ]
    third, base, ing = verbs[int(rng.integers(len(verbs)))]
    form = rng.random()
    if form < 0.4:
        return say(f"{base if phrase.plural else third}/{base}/VERB")
    return (_is(phrase) if form < 0.7 else Phrase()) + say(f"{ing}/{base}/VERB")


def _beside(rng: Rng) -> Phrase:
    prepositions = (
        "near/ADP",
        "beside/ADP",
        "behind/ADP",
        "above/ADP",
        "next/ADV to/ADP",
        "with/ADP",
        "under/ADP",
        "by/ADP",
    )
    return say(prepositions[int(rng.integers(len(prepositions)))])


def _on(rng: Rng) -> Phrase:
    return say(("on/ADP", "on/ADP", "over/ADP", "against/ADP", "across/ADP")[int(rng.integers(5))])


FRONT = say("in/ADP") + idle("front") + say("of/ADP")


def _shot(rng: Rng) -> Phrase:
    words = ("photo", "picture", "image", "view", "photograph")
    adjective = say(("", "", "close/ADJ", "nice/ADJ", "blurry/ADJ")[int(rng.integers(5))])
    return say("a/DET") + adjective + idle(words[int(rng.integers(len(words)))])


def _backdrop(floor: Phrase) -> Phrase:
    return say("with/ADP") + floor + say("in/ADP the/DET") + idle("background")


def _place(rng: Rng) -> Phrase:
    place = ("side", "corner", "middle", "edge")[int(rng.integers(4))]
    adjective = Phrase()
    if place in ("side", "corner"):
        adjective = say(("left/ADJ", "right/ADJ", "far/ADJ")[int(rng.integers(3))])
    return say("in/ADP the/DET" if place in ("middle", "corner") else "on/ADP the/DET") + adjective + idle(place)


EMPTY: tuple[Callable[..., Phrase], ...] = (
    lambda g, rng: _shot(rng) + say("of/ADP") + g,
    lambda g, _rng: g + say("and/CCONJ nothing/PRON else/ADJ"),
    lambda g, _rng: say("there/PRON is/be/AUX only/ADV") + g + say("here/ADV"),
)
ONE: tuple[Callable[..., Phrase], ...] = (
    lambda s, _, _rng: s,
    lambda s, _, rng: _shot(rng) + say("of/ADP") + s,
    lambda s, _, rng: _shot(rng) + say("showing/show/VERB") + s,
    lambda s, _, _rng: say("there/PRON") + _is(s) + s + say("here/ADV"),
    lambda s, _, rng: say("there/PRON") + _is(s) + s + _place(rng),
    lambda s, _, _rng: s + say("seen/see/VERB from/ADP above/ADV"),
    lambda s, _, _rng: say("we/PRON can/AUX see/VERB") + s,
    lambda s, _, rng: s + _place(rng) + say("of/ADP the/DET") + idle("picture"),
    lambda s, _, _rng: say("these/this/PRON are/be/AUX" if s.plural else "this/PRON is/be/AUX") + s,
)
ONE_ON: tuple[Callable[..., Phrase], ...] = (
    lambda s, g, rng: s + _on(rng) + g,
    lambda s, g, rng: s + _posture(s, rng) + say("on/ADP") + g,
    lambda s, g, rng: _shot(rng) + say("of/ADP") + s + _on(rng) + g,
    lambda s, g, _rng: s + FRONT + g,
    lambda s, g, _rng: s + _backdrop(g),
    lambda s, g, rng: say("there/PRON") + _is(s) + s + _on(rng) + g,
    lambda s, g, _rng: say("someone/PRON put/VERB") + s + say("on/ADP") + g,
    lambda s, g, rng: s + say("that/PRON") + _is(s) + _beside(rng) + g,
    lambda s, g, _rng: s + say("surrounded/surround/VERB by/ADP") + g,
    lambda s, g, rng: say("in/ADP this/DET") + idle("scene") + s + _posture(s, rng) + say("on/ADP") + g,
)
TWO: tuple[Callable[..., Phrase], ...] = (
    lambda s, o, _, rng: s + _beside(rng) + o,
    lambda s, o, _, _rng: s + say("and/CCONJ") + o,
    lambda s, o, _, rng: s + _posture(s, rng) + _beside(rng) + o,
    lambda s, o, _, rng: _shot(rng) + say("of/ADP") + s + say("and/CCONJ") + o,
    lambda s, o, _, _rng: s + FRONT + o,
    lambda s, o, _, _rng: s + say("on/ADP the/DET left/ADJ") + idle("side") + say("of/ADP") + o,
    lambda s, o, _, rng: s + say("that/PRON") + _is(s) + _beside(rng) + o,
    lambda s, o, _, _rng: s + say("hides/hide/VERB" if not s.plural else "hide/VERB") + o,
    lambda s, o, _, rng: say("you/PRON can/AUX see/VERB") + s + _beside(rng) + o,
)
TWO_ON: tuple[Callable[..., Phrase], ...] = (
    lambda s, o, g, rng: s + say("and/CCONJ") + o + _on(rng) + g,
    lambda s, o, g, rng: s + _posture(s, rng) + say("on/ADP") + g + _beside(rng) + o,
    lambda s, o, g, rng: s + _beside(rng) + o + _backdrop(g),
    lambda s, o, g, rng: _shot(rng) + say("of/ADP") + s + _beside(rng) + o + _on(rng) + g,
    lambda s, o, g, rng: s + say("that/PRON") + _is(s) + _beside(rng) + o + _on(rng) + g,
    lambda s, o, g, rng: _on(rng) + g + say("there/PRON") + _is(s) + s + say("and/CCONJ") + o,
    lambda s, o, g, rng: s + _on(rng) + g + say("while/SCONJ") + o + _is(o) + _place(rng),
)


def _finish(phrase: Phrase, rng: Rng) -> Caption:
    """Turn a phrase into a caption: add spaces, in most cases a capital and a full stop, and find the spans of the nouns."""
    if rng.random() < 0.8:
        phrase = phrase + say("./PUNCT")
    capital = rng.random() < 0.85
    tokens, spans, text = [], [], ""
    for i, word in enumerate(phrase.words):
        last = i == len(phrase.words) - 1
        space = not last and phrase.words[i + 1].pos != "PUNCT"
        shown = word.text[0].upper() + word.text[1:] if i == 0 and capital else word.text
        spans.append((len(text), len(text) + len(shown)))
        text += shown + " " * space
        tokens.append(Token(shown, word.lemma, word.pos, space))
    gold = tuple(GoldNoun(n.noun, spans[n.first][0], spans[n.last - 1][1], n.visual) for n in phrase.nouns)
    return Caption(text, tuple(tokens), gold)
