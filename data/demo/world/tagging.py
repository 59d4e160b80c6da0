"""The demo's stand-in for en_core_web_sm: a tiny English tagger, a real spaCy pipeline, trained on the grammar's gold tags.

So that it is not silly beyond the demo, a share of its training captions has other common words in the places of the
vocabulary's.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import spacy
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import fix_random_seed, minibatch

from data.demo.world.captions import Caption, Token, imagine, write

WIDTH = 64
ROWS = 800  # of each hash embedding: the whole pipeline stays near a megabyte
SWAPPED = 0.35  # share of captions whose nouns and adjectives are replaced by other English words
META = {
    "name": "demo_nouns",
    "version": "0.1.0",
    "license": "Apache-2.0",
    "author": "the ovseg authors",
    "description": "Part of speech and lemma for the captions of ovseg's drawn demo.",
}


def captions(number: int, seed: int) -> list[Caption]:
    """That many captions of imagined images."""
    rng = np.random.default_rng(seed)
    return [write(imagine(rng), rng) for _ in range(number)]


def train_tagger(
    out: Path, training: Sequence[Caption], held_out: Sequence[Caption], seed: int, epochs: int
) -> dict[str, float]:
    """Train, save and measure.

    Args:
        out: folder that `spacy.load` then takes.
        training, held_out: captions.
        seed: of weights, order and swapped words.
        epochs: passes over `training`.

    Returns:
        "pos_accuracy" and "lemma_accuracy" on `held_out`, in [0, 1].
    """
    fix_random_seed(seed)
    nlp = _pipeline()
    rng = random.Random(seed)  # noqa: S311 - words, not secrets
    words = _other_words()
    examples = [_example(nlp, _swap(c.tokens, words, rng) if rng.random() < SWAPPED else c.tokens) for c in training]
    optimiser = nlp.initialize(lambda: examples)
    for _ in range(epochs):
        rng.shuffle(examples)
        for batch in minibatch(examples, 64):
            nlp.update(batch, sgd=optimiser, drop=0.1)
    nlp.meta.update(META)
    nlp.to_disk(out)
    return _measure(nlp, held_out)


def _pipeline() -> Language:
    nlp = spacy.blank("en")
    listener = {"@architectures": "spacy.Tok2VecListener.v1", "width": WIDTH, "upstream": "*"}
    nlp.add_pipe(
        "tok2vec",
        config={
            "model": {
                "@architectures": "spacy.HashEmbedCNN.v2",
                "width": WIDTH,
                "depth": 2,
                "embed_size": ROWS,
                "window_size": 1,
                "maxout_pieces": 2,
                "subword_features": True,
                "pretrained_vectors": None,
            }
        },
    )
    nlp.add_pipe("morphologizer", config={"model": {"@architectures": "spacy.Tagger.v2", "tok2vec": listener}})
    nlp.add_pipe("trainable_lemmatizer", config={"model": {"@architectures": "spacy.Tagger.v2", "tok2vec": listener}})
    return nlp


def _example(nlp: Language, tokens: Sequence[Token]) -> Example:
    words, spaces = [t.text for t in tokens], [t.space for t in tokens]
    gold = Doc(nlp.vocab, words, spaces, pos=[t.pos for t in tokens], lemmas=[t.lemma for t in tokens])
    return Example(Doc(nlp.vocab, words, spaces), gold)


def _other_words() -> dict[str, list[str]]:
    """Common English words by part of speech, from the data file."""
    text = resources.files(__package__).joinpath("other_words.txt").read_text(encoding="utf-8")
    return {pos: words.split() for pos, _, words in (line.partition(": ") for line in text.splitlines() if line)}


def _swap(tokens: Sequence[Token], words: dict[str, list[str]], rng: random.Random) -> tuple[Token, ...]:
    """Other nouns (in the same number) and adjectives in the same places."""
    swapped = []
    for i, token in enumerate(tokens):
        beside = i + 1 < len(tokens) and tokens[i + 1].pos == "NOUN"
        if token.pos == "NOUN" and not beside and rng.random() < 0.7:
            word = rng.choice(words["NOUN"])
            plural = token.text.lower() != token.lemma
            shown = word + ("es" if word.endswith(("s", "x", "ch", "sh")) else "s") if plural else word
            swapped.append(Token(shown.capitalize() if i == 0 else shown, word, "NOUN", token.space))
        elif token.pos == "ADJ" and rng.random() < 0.5:
            word = rng.choice(words["ADJ"])
            swapped.append(Token(word.capitalize() if token.text[0].isupper() else word, word, "ADJ", token.space))
        else:
            swapped.append(token)
    return tuple(swapped)


def _measure(nlp: Language, held_out: Iterable[Caption]) -> dict[str, float]:
    scores = nlp.evaluate([_example(nlp, caption.tokens) for caption in held_out])
    return {"pos_accuracy": float(scores["pos_acc"]), "lemma_accuracy": float(scores["lemma_acc"])}
