"""Text features of the mined nouns, encoded once: the text tower is frozen. T templates, K nouns, D joint width."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ovseg.clip.load import Clip
from ovseg.core.errors import OvsegError
from ovseg.core.vocabulary import TEMPLATES, TrainTemplates, embed

BATCH = 256  # texts in one forward pass


def read_nouns(shards: Path) -> list[str]:
    """The nouns of a set of shards, in the order of their ids.

    Raises:
        OvsegError: no list of nouns, ids with gaps, or a noun without text.
    """
    path = shards / "nouns.json"
    try:
        ids = {str(noun): int(number) for noun, number in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError) as error:
        raise OvsegError(f"{path} is no list of nouns ({error}); run the stage `shards` again") from None
    if sorted(ids.values()) != list(range(len(ids))):
        raise OvsegError(f"{path}: the ids are not 0 to {len(ids) - 1}; run the stage `shards` again")
    if empty := [number for noun, number in ids.items() if not noun.strip()]:
        raise OvsegError(f"{path}: the noun with id {empty[0]} has no text; mine again with a stop list that drops it")
    return sorted(ids, key=ids.__getitem__)


def text_bank(nouns: list[str], clip: Clip, templates: TrainTemplates) -> Tensor:
    """Unit vectors `[T, K, D]` of all nouns on the CPU; T is 1 unless templates are drawn at random."""
    if templates != "random-per-step":
        return embed(nouns, clip.encode_texts, templates, BATCH)[None]
    forms = TEMPLATES["vild"]
    texts = [form.format(noun) for form in forms for noun in nouns]
    encoded = torch.cat([clip.encode_texts(texts[i : i + BATCH]) for i in range(0, len(texts), BATCH)])
    return encoded.reshape(len(forms), len(nouns), -1)


def pick(bank: Tensor, noun_ids: Tensor, seed: int, step: int) -> Tensor:
    """Texts `[G, D]` of a batch from the bank `[T, K, D]`; the template of each pair is drawn by seed and step alone."""
    forms = np.random.default_rng([seed, step]).integers(len(bank), size=len(noun_ids))
    return bank[torch.from_numpy(forms).to(bank.device), noun_ids.to(bank.device)]
