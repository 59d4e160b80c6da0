"""Embeddings of all proposals of mined images, for later runs of `score` with other nouns or templates (`keep_regions=all`).

They are in the scratch folder, one file for each unit, in full precision, so that a run that reads them writes the same bytes
as one that encodes. A file is named after all that an embedding depends on; it can be deleted at any time.

Shapes: D width of CLIP's joint embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ovseg.clip.embedding_files import FOLDER
from ovseg.core import hashing, tables
from ovseg.core.options import CropOptions, ScoreOptions
from ovseg.core.tensor_files import keep_tensors, read_kept_tensors
from ovseg.engine.fingerprint import step_key

OF_REGIONS = ("duplicate_iou", "encoder", "start_block", "coverage", "image_size", "precision")
"""The fields of `ScoreOptions` that an embedding depends on."""

Vectors = Mapping[tuple[int, int], Tensor]
"""Unit vectors, float32 `[D]`, by image id and proposal."""


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


def read_vectors(path: Path) -> Vectors:
    """Read the embeddings of a unit; none if there is no such file, or if it is damaged, which is logged."""
    stored = read_kept_tensors(path)
    if not stored:
        return {}
    return dict(zip(map(tuple, stored["regions"].tolist()), stored["vectors"], strict=True))


def write_vectors(path: Path, vectors: Vectors) -> None:
    """Write the embeddings of a unit at once."""
    if vectors:
        keep_tensors({"regions": torch.tensor(list(vectors)), "vectors": torch.stack(list(vectors.values()))}, path)
