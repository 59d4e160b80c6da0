"""The words that a picture is segmented with. K classes, M texts (a class may have synonyms), D joint width."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ovseg.clip.load import Clip
from ovseg.errors import OvsegError
from ovseg.vocabulary import Templates, embed

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
    """

    names: tuple[str, ...]
    texts: Tensor
    owner: Tensor

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
        OvsegError: no class, an empty name, or the same name for two classes.
    """
    shown = tuple(check_names([" ".join(names[0].split()) if names else "" for names in classes]))
    texts = [
        [", ".join(names)]
        if synonyms == "joined"
        else list(dict.fromkeys(name.strip() for name in names if name.strip()))
        for names in classes
    ]
    flat = [text for some in texts for text in some]
    owner = torch.tensor([k for k, some in enumerate(texts) for _ in some], dtype=torch.int64)
    _say_what_is_cut(flat, clip)
    return Vocabulary(shown, embed(flat, clip.encode_texts, templates, batch_size), owner)


def check_names(names: Sequence[str]) -> Sequence[str]:
    """The same names.

    Raises:
        OvsegError: there are none, one is empty, or some come twice.
    """
    if not names:
        raise OvsegError('no names are given; for example --names "cat, sofa, grass"')
    if any(not name.strip() for name in names):
        raise OvsegError(f"name {[bool(name.strip()) for name in names].index(False) + 1} of {len(names)} is empty")
    twice = [name for name, number in Counter(name.lower() for name in names).items() if number > 1]
    if twice:
        raise OvsegError(f"names that come more than once: {', '.join(twice[:8])}; each class needs its own")
    return names


def _say_what_is_cut(texts: Sequence[str], clip: Clip) -> None:
    """CLIP reads so many tokens and no more; a text that fills them all has lost its end."""
    tokens = clip.tokenizer(list(texts))
    full = [text for text, row in zip(texts, tokens, strict=True) if int(row[-1]) != 0 and len(row.unique()) > 2]
    if full:
        log.warning(
            "%d names are longer than the %d tokens that this CLIP reads, and are cut: %s",
            len(full), tokens.shape[1], "; ".join(f"{text[:60]}..." for text in full[:3]),
        )  # fmt: skip
