"""The vocabulary of a segmentation: classes, their names, and the text embeddings of the names.

Shapes: K classes, M texts (a class may have synonyms), Q proposals, C cells of an image, D joint width.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ovseg.clip.load import Clip
from ovseg.clip.pseudo_text import PseudoText, compare
from ovseg.core.errors import OvsegError
from ovseg.core.options import Synonyms, Templates
from ovseg.core.text import normalize
from ovseg.core.vocabulary import TEMPLATES, template_embeddings

log = logging.getLogger("ovseg")

SYNONYM = "|"  # between the names of one class
DIGITS = 5  # decimal digits of a cosine that are kept: later ones differ between processors


@dataclass(frozen=True)
class Vocabulary:
    """Classes and the embeddings of their names.

    Attributes:
        names: the shown name of each of K classes.
        texts: what region embeddings are multiplied with, if there are no pseudo-texts, float32 `[M, D]`: unit vectors, but for
            a CLIP with template weights.
        owner: the class of each text, int64 `[M]`.
        phrases: all names of all classes, which the texts stand for.
        network_texts: the texts by which the proposal network classifies, `[M, D]`, where CLIP has learned text prompts or
            template weights: the network was trained with plain templates. None for `texts`.
        pseudo_text: what changes the texts by what an image shows, if the CLIP has it.
    """

    names: tuple[str, ...]
    texts: Tensor
    owner: Tensor
    phrases: tuple[str, ...] = ()
    network_texts: Tensor | None = None
    pseudo_text: PseudoText | None = None

    def similarity(self, embeddings: Tensor, cells: Tensor | None = None) -> Tensor:
        """Return the similarity of CLIP's embeddings and classes: the largest over the texts of each class.

        Args:
            embeddings: unit vectors `[Q, D]`, of regions of one image.
            cells: those of the cells of the image `[C, D]`, which count with pseudo-texts alone.

        Returns:
            float64 `[Q, K]`: cosines, in [-1, 1]; with template weights their weighted sum over the templates; with
                pseudo-texts their scores, see `compare`.
        """
        return self._largest(compare(embeddings, self.texts, self.pseudo_text, cells))

    def network_similarity(self, embeddings: Tensor) -> Tensor:
        """As `similarity`, for query embeddings of the proposal network."""
        return self._largest(compare(embeddings, self.texts if self.network_texts is None else self.network_texts))

    def _largest(self, of_texts: Tensor) -> Tensor:
        """Of similarities `[Q, M]` the largest over the texts of each class."""
        rounded = torch.round(of_texts.double(), decimals=DIGITS)
        largest = rounded.new_full((len(rounded), len(self.names)), -torch.inf)
        return largest.scatter_reduce(1, self.owner.expand(len(rounded), -1), rounded, "amax")


def split_names(parts: Sequence[str]) -> list[list[str]]:
    """Split the text of each class at "|" into its names: "road | route" are two names of one class."""
    return [[name.strip() for name in part.split(SYNONYM)] for part in parts]


def build_vocabulary(
    classes: Sequence[Sequence[str]],
    clip: Clip,
    templates: Templates,
    synonyms: Synonyms = "max",
) -> Vocabulary:
    """Embed the names of K classes with the text tower of a CLIP.

    Args:
        classes: the names of each class: the shown one first, then synonyms.
        clip: the CLIP; if it has learned text prompts, its regions are compared with names behind those.
        templates: the text templates, see `core.vocabulary.embed`.
        synonyms: "max" embeds every name and takes the largest similarity; "mean" takes the normalized mean over the names and
            templates of a class (ZegFormer); "joined" makes one text of all names ("road, route"), as OVSeg does.

    Raises:
        OvsegError: there is no class, a name is empty, or two classes have the same names.
    """
    cleaned = [tuple(dict.fromkeys(name for name in map(clean_name, names) if name)) for names in classes]
    check_names(cleaned)
    texts_by_class = [(", ".join(names),) if synonyms == "joined" else names for names in cleaned]
    phrases = tuple(text for texts in texts_by_class for text in texts)
    owner = torch.tensor([k for k, texts in enumerate(texts_by_class) for _ in texts], dtype=torch.int64)
    _warn_of_truncation(phrases, clip, templates)
    names = tuple(names[0] for names in cleaned)

    def of_classes(vectors: Tensor) -> Tensor:
        return torch.stack([vectors[owner == k].mean(0) for k in range(len(names))]) if synonyms == "mean" else vectors

    def unit_texts(vectors: Tensor) -> Tensor:
        return F.normalize(of_classes(vectors.mean(1)), dim=-1)

    text_owner = torch.arange(len(names)) if synonyms == "mean" else owner
    vectors = template_embeddings(phrases, clip.encode_texts, templates)
    network_texts = unit_texts(vectors)
    if clip.regions.template_weights is not None:
        texts = of_classes(clip.weigh_templates(vectors, templates))
    elif clip.text_prompts is not None:
        texts = unit_texts(template_embeddings(phrases, *clip.name_encoder(templates)))
    else:
        return Vocabulary(names, network_texts, text_owner, phrases, pseudo_text=clip.pseudo_text)
    return Vocabulary(names, texts, text_owner, phrases, network_texts, clip.pseudo_text)


def clean_name(name: str) -> str:
    """Return a name in its normal form, with single spaces."""
    return " ".join(normalize(name).split())


def check_names(classes: Sequence[tuple[str, ...]]) -> None:
    """Check that classes can be told apart by their names.

    Raises:
        OvsegError: there is no class, a name is empty, or two classes have the same names.
    """
    if not classes:
        raise OvsegError('no class names are given; give them for example as --names "cat, sofa, grass"')
    if () in classes:
        raise OvsegError(f"class name {list(classes).index(()) + 1} of {len(classes)} is empty")
    counts = Counter(tuple(sorted(name.lower() for name in names)) for names in classes)
    repeated = [", ".join(names) for names, number in counts.items() if number > 1]
    if repeated:
        raise OvsegError(f"class names are given more than once: {'; '.join(repeated[:8])}; remove the repetitions")


def _warn_of_truncation(phrases: Sequence[str], clip: Clip, templates: Templates) -> None:
    """Warn of texts that exceed CLIP's context: with one more word, and without the last letter, the tokens are the same."""
    _, of_texts = clip.name_encoder(templates)
    longest = max(TEMPLATES[of_texts], key=len)
    texts = [longest.format(phrase) for phrase in phrases]
    tokens, longer, shorter = (
        clip.name_tokens(changed)
        for changed in (texts, [f"{text} x" for text in texts], [text.rstrip(".")[:-1] for text in texts])
    )
    truncated = [
        phrase
        for phrase, row, *others in zip(phrases, tokens, longer, shorter, strict=True)
        if all(torch.equal(row, other) for other in others)
    ]
    if truncated:
        log.warning(
            "%d class names exceed, with their %s, the %d tokens of this CLIP and are truncated: %s",
            len(truncated),
            "template" if clip.text_prompts is None else "learned text prompts",
            tokens.shape[1],
            "; ".join(f"{phrase[:60]}..." for phrase in truncated[:3]),
        )
