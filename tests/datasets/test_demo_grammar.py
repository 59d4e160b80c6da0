"""The demo's captions, their gold tags, and the committed tagger."""

from __future__ import annotations

from functools import cache
from itertools import groupby
from pathlib import Path

import numpy as np
import spacy

from data.demo.world.captions import Caption, imagine, write
from data.demo.world.nouns import nouns
from ovseg.mining.nouns import load_tagger, nouns_of

TAGGER = Path(__file__).parents[2] / "data" / "demo" / "tagger"
MAX_WORDS = 24  # the demo's CLIP reads 32 tokens


@cache
def some(number: int, seed: int) -> tuple[Caption, ...]:
    """Captions of imagined images."""
    rng = np.random.default_rng(seed)
    return tuple(write(imagine(rng), rng) for _ in range(number))


def starts(caption: Caption) -> list[int]:
    """Where each token begins."""
    lengths = [len(token.text) + token.space for token in caption.tokens]
    return [sum(lengths[:i]) for i in range(len(lengths))]


def runs(caption: Caption) -> list[tuple[str, int, int]]:
    """The maximal runs of gold tokens tagged NOUN, as (lemma form, start, end)."""
    found, begin = [], starts(caption)
    for is_noun, group in groupby(range(len(caption.tokens)), lambda i: caption.tokens[i].pos == "NOUN"):
        of = list(group)
        if is_noun:
            last = caption.tokens[of[-1]]
            words = [*(caption.tokens[i].text.lower() for i in of[:-1]), last.lemma]
            found.append((" ".join(words), begin[of[0]], begin[of[-1]] + len(last.text)))
    return found


def test_gold_spans_cut_out_the_words_of_the_noun() -> None:
    forms = {form: {form, plural or form} for n in nouns() for form, plural in ((n.name, n.plural), *n.synonyms)}
    for caption in some(2000, 11):
        for noun in caption.nouns:
            cut = caption.text[noun.start : noun.end].lower()
            assert cut in forms[noun.text] if noun.visual else cut.startswith(noun.text), caption.text


def test_gold_nouns_are_the_maximal_runs_of_noun_tokens() -> None:
    for caption in some(2000, 11):
        assert runs(caption) == [(noun.text, noun.start, noun.end) for noun in caption.nouns], caption.text


def test_tokens_are_those_of_spacy() -> None:
    tokenizer = spacy.blank("en").tokenizer
    for caption in some(2000, 11):
        cut = [(token.text, bool(token.whitespace_)) for token in tokenizer(caption.text)]
        assert cut == [(token.text, token.space) for token in caption.tokens], caption.text


def test_every_noun_and_synonym_occurs() -> None:
    named = {noun.text for caption in some(6000, 12) for noun in caption.nouns if noun.visual}
    assert named == {name for n in nouns() for name in (n.name, *(synonym for synonym, _ in n.synonyms))}


def test_captions_are_short_enough_for_clip() -> None:
    assert max(sum(token.pos != "PUNCT" for token in caption.tokens) for caption in some(6000, 12)) <= MAX_WORDS


def test_a_caption_names_only_what_is_there_and_not_always_all_of_it() -> None:
    names = {form: n.name for n in nouns() for form in (n.name, *(synonym for synonym, _ in n.synonyms))}
    rng, left_out = np.random.default_rng(13), 0
    for _ in range(1000):
        seen = imagine(rng)
        caption = write(seen, rng)
        named = {names[noun.text] for noun in caption.nouns if noun.visual}
        assert named, caption.text
        assert named <= {what.noun for what in seen}, caption.text
        left_out += len(named) < len(seen)
    assert left_out > 300


def test_same_seed_same_captions() -> None:
    def texts(seed: int) -> list[str]:
        rng = np.random.default_rng(seed)
        return [write(imagine(rng), rng).text for _ in range(50)]

    assert texts(5) == texts(5) != texts(6)


def test_the_committed_tagger_finds_the_nouns() -> None:
    nlp = load_tagger(str(TAGGER))
    found = right = gold = 0
    for caption in some(300, 14):
        expected = {(noun.text, noun.start, noun.end) for noun in caption.nouns}
        read = {tuple(noun) for noun in nouns_of(nlp(caption.text), "chunk")}
        found, right, gold = found + len(read), right + len(read & expected), gold + len(expected)
    assert right >= 0.98 * found
    assert right >= 0.98 * gold
