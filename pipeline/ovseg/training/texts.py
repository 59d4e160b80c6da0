"""Text embeddings of the mined nouns, encoded once: the text tower is frozen.

Shapes: T templates, K nouns, G pairs of the global batch, B images, C cells of an image, D joint width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ovseg.clip.load import Clip
from ovseg.clip.pseudo_text import PseudoText
from ovseg.core.errors import OvsegError
from ovseg.core.options import TrainTemplates
from ovseg.core.remote_files import read_file
from ovseg.core.vocabulary import template_embeddings


def read_nouns(shards: Path) -> list[str]:
    """Read the nouns of a set of shards, in the order of their ids.

    Args:
        shards: the folder of the shards.

    Raises:
        OvsegError: nouns.json is missing or broken, its ids are not 0 to K - 1, or a noun is empty.
    """
    path = shards / "nouns.json"
    try:
        ids = {str(noun): int(number) for noun, number in json.loads(read_file(path)).items()}
    except (OSError, ValueError, AttributeError) as error:
        raise OvsegError(f"{path} is no list of nouns ({error}); run the stage `shards` again") from None
    if sorted(ids.values()) != list(range(len(ids))):
        raise OvsegError(f"{path}: the ids are not 0 to {len(ids) - 1}; run the stage `shards` again")
    if empty := [number for noun, number in ids.items() if not noun.strip()]:
        raise OvsegError(f"{path}: the noun with id {empty[0]} is empty; mine again with a stop list that drops it")
    return sorted(ids, key=ids.__getitem__)


def embed_nouns(nouns: list[str], clip: Clip, templates: TrainTemplates) -> Tensor:
    """Encode all nouns.

    Args:
        nouns: K nouns.
        clip: the CLIP whose text tower encodes them.
        templates: the templates; with "random-per-step" each is encoded separately, otherwise T is 1. Learned text prompts of
            the CLIP take their place.

    Returns:
        unit vectors `[T, K, D]` on the CPU.
    """
    if clip.text_prompts is not None:
        templates = "none"
    if templates != "random-per-step":
        return clip.embed_names(nouns, templates)[None]
    return template_embeddings(nouns, clip.encode_texts, "vild").transpose(0, 1).contiguous()


def embed_synonyms(classes: list[str], clip: Clip, templates: TrainTemplates) -> tuple[Tensor, list[list[int]]]:
    """Encode all synonyms of classes, each template separately. The commas of a class name stand between its synonyms.

    Args:
        classes: K class names, such as "building, edifice".
        clip: the CLIP whose text tower encodes them.
        templates: the templates. Learned text prompts of the CLIP take their place.

    Returns:
        unit vectors `[T, M, D]` on the CPU, and for each class the places of its synonyms in [0, M).
    """
    parts = [[part.strip() for part in name.split(",") if part.strip()] or [name] for name in classes]
    distinct = {part: i for i, part in enumerate(dict.fromkeys(part for names in parts for part in names))}
    if clip.text_prompts is not None:
        texts = embed_nouns(list(distinct), clip, "none")
    elif templates == "random-per-step":
        texts = embed_nouns(list(distinct), clip, templates)
    else:
        texts = template_embeddings(list(distinct), clip.encode_texts, templates).transpose(0, 1).contiguous()
    return texts, [[distinct[part] for part in names] for names in parts]


def draw_synonyms(synonyms: Sequence[Sequence[int]], seed: int, step: int) -> list[int]:
    """Draw one synonym of each class, by seed and step alone.

    Args:
        synonyms: for each of K classes the places of its synonyms, see `embed_synonyms`.
        seed: the seed of the training.
        step: the number of the training step.

    Returns:
        K places.
    """
    rng = np.random.default_rng([seed, step])
    return [places[int(rng.integers(len(places)))] for places in synonyms]


def weigh_templates(texts: Tensor, weights: Tensor) -> Tensor:
    """Combine the templates of class names by learned weights: the linear PSM of MaskCLIP++ (arXiv 2412.11464).

    That maps the T similarities s of a region r and a class to one score, W2 (W1 s + b1) + b2 without a non-linearity, so to a
    weighted sum of the similarities and a constant, which the softmax over classes ignores. As they are cosines, the sum is
    r times the weighted sum of the texts.

    Args:
        texts: unit vectors `[T, K, D]`.
        weights: `[T]`.

    Returns:
        `[K, D]`, no unit vectors.
    """
    return torch.einsum("t,tkd->kd", weights, texts)


def make_pseudo_texts(pseudo_text: PseudoText, texts: Tensor, cells: Tensor, seed: int, step: int) -> Tensor:
    """Change the texts of classes by what each image shows; what the attention drops out is drawn by seed and step alone.

    Args:
        pseudo_text: what is learned.
        texts: unit vectors `[K, D]`.
        cells: the cells of the images, unit vectors `[B, C, D]`.
        seed: the seed of the training.
        step: the number of the training step.

    Returns:
        `[B, K, D]`, no unit vectors.
    """
    with torch.random.fork_rng(devices=[cells.device] if cells.is_cuda else []):
        torch.manual_seed(int(np.random.default_rng([seed, step]).integers(2**63)))
        pseudo_texts: Tensor = pseudo_text(texts, cells)
    return pseudo_texts


def pick_texts(text_embeddings: Tensor, noun_ids: Tensor, seed: int, step: int) -> Tensor:
    """Pick the text of each pair of a batch; its template is drawn by seed and step alone.

    Args:
        text_embeddings: unit vectors `[T, K, D]`, see `embed_nouns`.
        noun_ids: the noun of each pair, int64 `[G]`.
        seed: the seed of the templates.
        step: the number of the training step.

    Returns:
        unit vectors `[G, D]`.
    """
    forms = np.random.default_rng([seed, step]).integers(len(text_embeddings), size=len(noun_ids))
    return text_embeddings[torch.from_numpy(forms).to(text_embeddings.device), noun_ids.to(text_embeddings.device)]
