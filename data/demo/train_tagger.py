"""Train the demo's stand-in for en_core_web_sm: `python -m data.demo.train_tagger`, half a minute.

It is a real spaCy pipeline that tags parts of speech and lemmas, trained on the gold tags of the demo's caption grammar. A
fraction of its training captions has other common English words in the places of the demo's nouns and adjectives, so that it
also works a little beyond the demo. The result is committed in data/demo/tagger.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import spacy
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import fix_random_seed, minibatch

from data.demo.world.captions import Caption, Token, imagine, write_caption
from stages._run import run_stage

HERE = Path(__file__).parent
OUT, OTHER_WORDS = HERE / "tagger", HERE / "other_words.txt"
WIDTH = 64
ROWS = 800  # rows of each hash embedding; the whole pipeline stays near a megabyte
SWAPPED = 0.35  # fraction of captions whose nouns and adjectives are replaced by other English words
META = {
    "name": "demo_nouns",
    "version": "0.1.0",
    "license": "Apache-2.0",
    "author": "the ovseg authors",
    "description": "Part of speech and lemma for the captions of ovseg's drawn demo.",
}


def main(_: object) -> None:
    """Write data/demo/tagger and the accuracies that it reaches."""
    start = time.monotonic()
    measured = train(OUT, captions(8000, seed=1), captions(1000, seed=2), seed=0, epochs=4)
    measured["minutes"] = round((time.monotonic() - start) / 60, 1)
    (OUT / "measured.json").write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    print(measured)


def captions(number: int, seed: int) -> list[Caption]:
    """Write captions of imagined images."""
    rng = np.random.default_rng(seed)
    return [write_caption(imagine(rng), rng) for _ in range(number)]


def train(
    out: Path, training: Sequence[Caption], held_out: Sequence[Caption], seed: int, epochs: int
) -> dict[str, float]:
    """Train a tagger, save it and measure it.

    Args:
        out: folder to write to, for `spacy.load`.
        training: captions to train on.
        held_out: captions to measure on.
        seed: seed of weights, order and replaced words.
        epochs: number of passes over `training`.

    Returns:
        "pos_accuracy" and "lemma_accuracy" on `held_out`, in [0, 1].
    """
    fix_random_seed(seed)
    nlp = _pipeline()
    rng = random.Random(seed)  # noqa: S311 - words, not secrets
    words = _other_words()
    examples = [_example(nlp, _swap(c.tokens, words, rng) if rng.random() < SWAPPED else c.tokens) for c in training]
    optimizer = nlp.initialize(lambda: examples)
    for _ in range(epochs):
        rng.shuffle(examples)
        for batch in minibatch(examples, 64):
            nlp.update(batch, sgd=optimizer, drop=0.1)
    nlp.meta.update(META)
    nlp.to_disk(out)
    return _measure(nlp, held_out)


def _pipeline() -> Language:
    nlp = spacy.blank("en")
    listener = {"@architectures": "spacy.Tok2VecListener.v1", "width": WIDTH, "upstream": "*"}
    tok2vec = {
        "@architectures": "spacy.HashEmbedCNN.v2",
        "width": WIDTH,
        "depth": 2,
        "embed_size": ROWS,
        "window_size": 1,
        "maxout_pieces": 2,
        "subword_features": True,
        "pretrained_vectors": None,
    }
    nlp.add_pipe("tok2vec", config={"model": tok2vec})
    nlp.add_pipe("morphologizer", config={"model": {"@architectures": "spacy.Tagger.v2", "tok2vec": listener}})
    nlp.add_pipe("trainable_lemmatizer", config={"model": {"@architectures": "spacy.Tagger.v2", "tok2vec": listener}})
    return nlp


def _example(nlp: Language, tokens: Sequence[Token]) -> Example:
    words, spaces = [t.text for t in tokens], [t.space for t in tokens]
    gold = Doc(nlp.vocab, words, spaces, pos=[t.pos for t in tokens], lemmas=[t.lemma for t in tokens])
    return Example(Doc(nlp.vocab, words, spaces), gold)


def _other_words() -> dict[str, list[str]]:
    """Common English words by part of speech."""
    text = OTHER_WORDS.read_text(encoding="utf-8")
    return {pos: words.split() for pos, _, words in (line.partition(": ") for line in text.splitlines() if line)}


def _swap(tokens: Sequence[Token], words: dict[str, list[str]], rng: random.Random) -> tuple[Token, ...]:
    """Replace single nouns (in the same number) and adjectives at random."""
    swapped = []
    for i, token in enumerate(tokens):
        in_compound = i + 1 < len(tokens) and tokens[i + 1].pos == "NOUN"
        if token.pos == "NOUN" and not in_compound and rng.random() < 0.7:
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


if __name__ == "__main__":
    run_stage(main)
