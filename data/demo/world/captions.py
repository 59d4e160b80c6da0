"""The demo's captions: what people write for COCO, in small. Each comes with its gold tokens and gold nouns.

Each caption names only some of what is there; plurals, compounds, adjectives, synonyms and nouns that name no region
("photo", "group", "side") make noun extraction non-trivial. Two nouns side by side occur only inside a compound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from data.demo.world.colours import COLOURS, PATTERNS
from data.demo.world.nouns import nouns
from data.demo.world.wording import Phrase, Seen, idle, listed, say, stuff, thing

MAX_THINGS = 3  # named in one caption
STUFF_SHARE = 0.6  # of captions name the ground
FREQUENT = 3.0  # how much likelier `imagine` takes an annotated noun

Rng = np.random.Generator


@dataclass(frozen=True)
class Token:
    """One token of a caption; `space` if a blank follows."""

    text: str
    lemma: str
    pos: str
    space: bool


@dataclass(frozen=True)
class GoldNoun:
    """A noun of a caption: its lemma form, its character span, and whether it can name a region."""

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


def write(seen: Sequence[Seen], rng: Rng) -> Caption:
    """One caption of an image; larger things are likelier to be named.

    Args:
        seen: what is there, at least one entry.
        rng: source of all choices.
    """
    things = [what for what in seen if what.kind == "thing"]
    ground = [what for what in seen if what.kind == "stuff"]
    subjects = [thing(what, rng) for what in _choose(things, rng)]
    floor = None
    if ground and (not subjects or rng.random() < STUFF_SHARE):
        floor = stuff(ground[int(rng.choice(len(ground), p=_weights(ground)))], rng)
    return _finish(_sentence(subjects, floor, rng), rng)


def imagine(rng: Rng) -> list[Seen]:
    """What could be in an image, without drawing it: one to four things, one or two kinds of stuff."""
    every = {kind: [n for n in nouns() if n.kind == kind] for kind in ("thing", "stuff")}
    found = []
    for kind, most in (("thing", 4), ("stuff", 2)):
        weight = np.array([FREQUENT if n.annotated else 1.0 for n in every[kind]])
        for i in rng.choice(len(weight), int(rng.integers(1, most + 1)), replace=False, p=weight / weight.sum()):
            colour, pattern = (
                (str(rng.choice(list(COLOURS))), str(rng.choice(PATTERNS))) if kind == "thing" else (None, None)
            )
            count = int(rng.choice([1, 2, 3], p=[0.75, 0.15, 0.1])) if kind == "thing" else 1
            found.append(Seen(every[kind][i].name, kind, colour, pattern, count, float(rng.uniform(0.02, 0.5))))
    return found


def _choose(things: Sequence[Seen], rng: Rng) -> list[Seen]:
    if len(things) <= 1:
        return list(things)
    number = int(rng.integers(1, min(len(things), MAX_THINGS) + 1))
    return [things[i] for i in rng.choice(len(things), number, replace=False, p=_weights(things))]


def _weights(seen: Sequence[Seen]) -> np.ndarray:
    area = np.array([max(what.area, 1e-3) ** 0.5 for what in seen])
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
    ways = ("near/ADP", "beside/ADP", "behind/ADP", "above/ADP", "next/ADV to/ADP", "with/ADP", "under/ADP", "by/ADP")
    return say(ways[int(rng.integers(len(ways)))])


def _on(rng: Rng) -> Phrase:
    return say(("on/ADP", "on/ADP", "over/ADP", "against/ADP", "across/ADP")[int(rng.integers(5))])


FRONT = say("in/ADP") + idle("front") + say("of/ADP")


def _shot(rng: Rng) -> Phrase:
    words = ("photo", "picture", "image", "view", "photograph")
    look = say(("", "", "close/ADJ", "nice/ADJ", "blurry/ADJ")[int(rng.integers(5))])
    return say("a/DET") + look + idle(words[int(rng.integers(len(words)))])


def _backdrop(floor: Phrase) -> Phrase:
    return say("with/ADP") + floor + say("in/ADP the/DET") + idle("background")


def _place(rng: Rng) -> Phrase:
    where = ("side", "corner", "middle", "edge")[int(rng.integers(4))]
    look = say(("left/ADJ", "right/ADJ", "far/ADJ")[int(rng.integers(3))]) if where in ("side", "corner") else Phrase()
    return say("in/ADP the/DET" if where in ("middle", "corner") else "on/ADP the/DET") + look + idle(where)


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
    """Capital and full stop (mostly), blanks, and the spans of the nouns."""
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
    gold = tuple(GoldNoun(m.noun, spans[m.first][0], spans[m.last - 1][1], m.visual) for m in phrase.marks)
    return Caption(text, tuple(tokens), gold)
