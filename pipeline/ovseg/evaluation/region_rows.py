"""Embeddings of regions as rows of the table `region_embeddings`, and rows as embeddings.

Not in `region_store`, whose code names the folders of kept embeddings: they outlive a change of the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ovseg.clip.embedding_files import embedding_file
from ovseg.evaluation import region_table
from ovseg.evaluation.region_store import ImageRegions, RegionName
from ovseg.segmentation.region_encoder import RegionEncoder


def to_rows(
    encoders: Mapping[str, RegionEncoder],
    embeddings: Mapping[tuple[str, ImageRegions], Tensor],
    items: Mapping[str, int],
) -> region_table.Rows:
    """Return embeddings as rows, each once, in the order of the images.

    Args:
        encoders: region encoders by the name of their CLIP.
        embeddings: what `region_store.embed_regions` returned.
        items: the number of each image in the benchmark, by its `image_hash`.
    """
    found: dict[RegionName, tuple[int, bytes, Tensor]] = {}
    for (model, regions), vectors in embeddings.items():
        encoder = encoders[model]
        of_image = encoder.rows(regions.rles)
        names = embedding_file(Path(model), regions.image, of_image, encoder.by_crops).regions
        for name, mask, vector in zip(names, filter(None, of_image), vectors, strict=True):
            found.setdefault((model, regions.image, name), (items[regions.image], mask, vector))
    rows = sorted(found.items(), key=lambda row: row[1][0])
    width = next(iter(encoders.values())).clip.width
    vectors = torch.stack([vector for _, (_, _, vector) in rows]) if rows else torch.zeros(0, width)
    return region_table.Rows(
        items=[item for _, (item, _, _) in rows],
        models=[model for (model, _, _), _ in rows],
        images=[image for (_, image, _), _ in rows],
        regions=[name for (_, _, name), _ in rows],
        masks=[mask for _, (_, mask, _) in rows],
        vectors=vectors.half().numpy(),
    )


def embeddings_of_unit(table: Path, unit: str, models: Sequence[str]) -> dict[RegionName, Tensor]:
    """Read the embeddings of a unit from a table: float32 `[D]` each, rounded to float16.

    Args:
        table: the folder of the table.
        unit: the name of the unit.
        models: the names of the CLIPs whose embeddings are read.

    Raises:
        OvsegError: the table is damaged.
    """
    rows = region_table.read(table, unit, models)
    names = zip(rows.models, rows.images, rows.regions, strict=True)
    return dict(zip(names, torch.from_numpy(rows.vectors.astype(np.float32)), strict=True))
