"""Embeddings of all proposals of mined images, for later runs of `score` with other nouns or templates (`keep_regions=all`).

They are in the scratch folder, one file for each unit, in full precision, so that a run that reads them writes the same bytes
as one that encodes. A file is named after all that an embedding depends on; it can be deleted at any time.

Shapes: k regions, D width of CLIP's joint embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ovseg.clip.embedding_files import FOLDER, read_regions_and_vectors
from ovseg.core import hashing, tables
from ovseg.core.options import CropOptions, ScoreOptions
from ovseg.core.tensor_files import keep_tensors
from ovseg.engine.fingerprint import step_key

OF_REGIONS = ("duplicate_iou", "encoder", "start_block", "coverage", "image_size", "precision")
"""The fields of `ScoreOptions` that an embedding depends on."""

Key = tuple[int, int]
"""Image id and proposal."""


def vectors_folder(
    work: Path, module: str, index: Path, proposals: Path, model: str, options: ScoreOptions, crop: CropOptions
) -> Path:
    """Return the folder of the files, below which each kind of device has its own.

    Args:
        work: the folder of unfinished work.
        module: the module that encodes.
        index, proposals: the folders of these tables.
        model: the fingerprint of the CLIP.
        options: the parameters of `score`; those of `OF_REGIONS` count.
        crop: the crop recipe.
    """
    key = step_key(
        "region vectors",
        module,
        index=tables.fingerprint(index, "index"),
        proposals=tables.fingerprint(proposals, "proposals"),
        clip=model,
        options=options.model_dump(include=set(OF_REGIONS)),
        crop=crop.model_dump(),
    )
    return work / FOLDER / hashing.fingerprint(key=key.fingerprint, code=key.code_hash)


class UnitVectors:
    """The embeddings of a unit: those that earlier runs kept, and new ones.

    Args:
        folder: see `vectors_folder`; None keeps none.
        device_type: the kind of device that encodes, such as "cuda".
        unit: the name of the unit.
    """

    def __init__(self, folder: Path | None, device_type: str, unit: str) -> None:
        self._path = folder and folder / device_type / f"{unit}.safetensors"
        stored = self._path and read_regions_and_vectors(self._path)
        self._stored: dict[Key, Tensor] = (
            dict(zip(map(tuple, stored[0].tolist()), stored[1], strict=True)) if stored else {}
        )
        self._new: dict[Key, Tensor] = {}

    def of(self, keys: Sequence[Key]) -> Tensor | None:
        """Return the kept embeddings of regions, float32 `[k, D]`; None if one of them is missing."""
        return torch.stack([self._stored[key] for key in keys]) if all(key in self._stored for key in keys) else None

    def add(self, keys: Sequence[Key], embeddings: Tensor) -> None:
        """Add embeddings of regions, float32 `[k, D]`."""
        if self._path:
            self._new |= dict(zip(keys, embeddings, strict=True))

    def write(self) -> None:
        """Write all embeddings at once, if there are new ones."""
        if self._path and self._new:
            vectors = self._stored | self._new
            keep_tensors(
                {"regions": torch.tensor(list(vectors)), "vectors": torch.stack(list(vectors.values()))}, self._path
            )
