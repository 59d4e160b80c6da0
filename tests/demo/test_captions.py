"""The demo's captions, their gold tags, and the committed tagger."""

from __future__ import annotations

from functools import cache
from itertools import groupby

import numpy as np
import spacy

from data.demo.world.captions import Caption, imagine, write_caption
from data.demo.world.nouns import nouns
from ovseg.mining.nouns import nouns_of
from ovseg.mining.tagger import load_tagger
from tests.conftest import TAGGER

MAX_WORDS = 24  # the demo's CLIP reads 32 tokens


@cache
def captions(number: int, seed: int) -> tuple[Caption, ...]:
    """Captions of imagined images."""
    rng = np.random.default_rng(seed)
    return tuple(write_caption(imagine(rng), rng) for _ in range(number))


def token_starts(caption: Caption) -> list[int]:
    """The character position of each token."""
    lengths = [len(token.text) + token.space for token in caption.tokens]
    return [sum(lengths[:i]) for i in range(len(lengths))]


def noun_runs(caption: Caption) -> list[tuple[str, int, int]]:
    """The maximal runs of gold tokens tagged NOUN, as (base form, start, end)."""
    runs, starts = [], token_starts(caption)
    for is_noun, group in groupby(range(len(caption.tokens)), lambda i: caption.tokens[i].pos == "NOUN"):
        positions = list(group)
        if is_noun:
            last = caption.tokens[positions[-1]]
            words = [*(caption.tokens[i].text.lower() for i in positions[:-1]), last.lemma]
            runs.append((" ".join(words), starts[positions[0]], starts[positions[-1]] + len(last.text)))
    return runs


def test_gold_spans_contain_the_words_of_the_noun() -> None:
    forms = {form: {form, plural or form} for n in nouns() for form, plural in ((n.name, n.plural), *n.synonyms)}
    for caption in captions(2000, 11):
        for noun in caption.nouns:
            text = caption.text[noun.start : noun.end].lower()
            assert text in forms[noun.text] if noun.visual else text.startswith(noun.text), caption.text


def test_gold_nouns_are_the_maximal_runs_of_noun_tokens() -> None:
    for caption in captions(2000, 11):
        assert noun_runs(caption) == [(noun.text, noun.start, noun.end) for noun in caption.nouns], caption.text


def test_tokens_are_those_of_spacy() -> None:
    tokenizer = spacy.blank("en").tokenizer
    for caption in captions(2000, 11):
        tokens = [(token.text, bool(token.whitespace_)) for token in tokenizer(caption.text)]
        assert tokens == [(token.text, token.space) for token in caption.tokens], caption.text


def test_every_noun_and_synonym_occurs() -> None:
    named = {noun.text for caption in captions(6000, 12) for noun in caption.nouns if noun.visual}
    assert named == {name for n in nouns() for name in (n.name, *(synonym for synonym, _ in n.synonyms))}


def test_captions_are_short_enough_for_clip() -> None:
    assert max(sum(token.pos != "PUNCT" for token in caption.tokens) for caption in captions(6000, 12)) <= MAX_WORDS


def test_a_caption_names_only_contents_of_the_image_and_often_not_all_of_them() -> None:
    names = {form: n.name for n in nouns() for form in (n.name, *(synonym for synonym, _ in n.synonyms))}
    rng, incomplete = np.random.default_rng(13), 0
    for _ in range(1000):
        entities = imagine(rng)
        caption = write_caption(entities, rng)
        named = {names[noun.text] for noun in caption.nouns if noun.visual}
        assert named, caption.text
        assert named <= {entity.noun for entity in entities}, caption.text
        incomplete += len(named) < len(entities)
    assert incomplete > 300


def test_the_same_seed_gives_the_same_captions() -> None:
    def texts(seed: int) -> list[str]:
        rng = np.random.default_rng(seed)
        return [write_caption(imagine(rng), rng).text for _ in range(50)]

    assert texts(5) == texts(5) != texts(6)


def test_the_committed_tagger_finds_the_nouns() -> None:
    nlp = load_tagger(str(TAGGER))
    predicted = correct = gold = 0
    for caption in captions(300, 14):
        expected = {(noun.text, noun.start, noun.end) for noun in caption.nouns}
        extracted = {tuple(noun) for noun in nouns_of(nlp(caption.text), "chunk")}
        predicted, correct, gold = predicted + len(extracted), correct + len(extracted & expected), gold + len(expected)
    assert correct >= 0.98 * predicted
    assert correct >= 0.98 * gold
