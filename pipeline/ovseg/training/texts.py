"""Text embeddings of the mined nouns, encoded once: the text tower is frozen.

Shapes: T templates, K nouns, G pairs of the global batch, D joint width.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ovseg.clip.load import Clip
from ovseg.core.errors import OvsegError
from ovseg.core.options import TrainTemplates
from ovseg.core.vocabulary import TEMPLATES, TEXTS_AT_A_TIME, embed


def read_nouns(shards: Path) -> list[str]:
    """Read the nouns of a set of shards, in the order of their ids.

    Args:
        shards: the folder of the shards.

    Raises:
        OvsegError: nouns.json is missing or broken, its ids are not 0 to K - 1, or a noun is empty.
    """
    path = shards / "nouns.json"
    try:
        ids = {str(noun): int(number) for noun, number in json.loads(path.read_text(encoding="utf-8")).items()}
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
        return embed(nouns, *clip.name_encoder(templates))[None]
    forms = TEMPLATES["vild"]
    texts = [form.format(noun) for form in forms for noun in nouns]
    batches = [texts[i : i + TEXTS_AT_A_TIME] for i in range(0, len(texts), TEXTS_AT_A_TIME)]
    encoded = torch.cat([clip.encode_texts(batch) for batch in batches])
    return encoded.reshape(len(forms), len(nouns), -1)


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
