"""The words that an image is segmented with. K classes, M texts (a class may have synonyms), D joint width."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ovseg.clip.load import Clip
from ovseg.core.errors import OvsegError
from ovseg.core.vocabulary import TEMPLATES, Templates, embed

log = logging.getLogger("ovseg")

Synonyms = Literal["max", "joined"]
"""The best of a class's names decides, or all of them are one text ("road, route"), as in the reference."""

DIGITS = 5  # of a cosine: what is beyond moves with the batch size


@dataclass(frozen=True)
class Vocabulary:
    """Classes and the embeddings of their names.

    Attributes:
        names: K, as shown.
        texts: unit vectors `[M, D]`.
        owner: class of each text, int64 `[M]`.
        phrases: the texts.
    """

    names: tuple[str, ...]
    texts: Tensor
    owner: Tensor
    phrases: tuple[str, ...] = ()

    def similarity(self, features: Tensor) -> Tensor:
        """Cosines of unit vectors `[Q, D]` with the K classes, float64 `[Q, K]`: the best of each class's texts."""
        cosines = torch.round((features @ self.texts.T).double(), decimals=DIGITS)
        best = cosines.new_full((len(features), len(self.names)), -1.0)
        return best.scatter_reduce(1, self.owner.expand(len(features), -1), cosines, "amax")


def vocabulary(
    classes: Sequence[Sequence[str]],
    clip: Clip,
    templates: Templates,
    synonyms: Synonyms = "max",
    batch_size: int = 256,
) -> Vocabulary:
    """Embed the names of K classes with a CLIP's text tower.

    Args:
        classes: the names of each: the one that is shown, then synonyms.
        clip: whose text tower.
        templates: see `vocabulary.embed`.
        synonyms: see `Synonyms`.
        batch_size: texts in one forward pass.

    Raises:
        OvsegError: no class, an empty name, or the same names for two classes.
    """
    clean = [tuple(dict.fromkeys(" ".join(name.split()) for name in names if name.strip())) for names in classes]
    check_names(clean)
    texts = [(", ".join(names),) if synonyms == "joined" else names for names in clean]
    flat = tuple(text for some in texts for text in some)
    owner = torch.tensor([k for k, some in enumerate(texts) for _ in some], dtype=torch.int64)
    _say_what_is_cut(flat, clip, templates)
    shown = tuple(names[0] for names in clean)
    return Vocabulary(shown, embed(flat, clip.encode_texts, templates, batch_size), owner, flat)


def check_names(classes: Sequence[tuple[str, ...]]) -> None:
    """Refuse names that cannot be told apart.

    Raises:
        OvsegError: there are none, one is empty, or two classes have the same names.
    """
    if not classes:
        raise OvsegError('no names are given; for example --names "cat, sofa, grass"')
    if () in classes:
        raise OvsegError(f"name {list(classes).index(()) + 1} of {len(classes)} is empty")
    counted = Counter(tuple(sorted(name.lower() for name in names)) for names in classes)
    twice = [", ".join(names) for names, number in counted.items() if number > 1]
    if twice:
        raise OvsegError(f"names that come more than once: {'; '.join(twice[:8])}; each class needs its own")


def _say_what_is_cut(texts: Sequence[str], clip: Clip, templates: Templates) -> None:
    """CLIP reads so many tokens and no more: a text that is the same to it without its last letter has lost its end."""
    longest = max(TEMPLATES[templates], key=len)
    whole = [longest.format(text) for text in texts]
    rows, shorter = clip.tokenizer(whole), clip.tokenizer([text[:-1] for text in whole])
    cut = [text for text, row, less in zip(texts, rows, shorter, strict=True) if torch.equal(row, less)]
    if cut:
        log.warning(
            "%d names are, with the sentence around them, longer than the %d tokens that this CLIP reads, and are cut: %s",
            len(cut),
            rows.shape[1],
            "; ".join(f"{text[:60]}..." for text in cut[:3]),
        )
