"""Embeddings of regions, which are computed only if no table of the step `embed` has them and no earlier run has stored them.

Benchmarks share images, and benchmarks and annotated masks are evaluated again with other names, templates, weights or
thresholds of scores; CLIP encodes a region once for all of them, see `clip.embedding_files`. What is missing of several images
is encoded in the same forward passes: a pass takes as long with one crop as with all.

Shapes: Q masks of an image, V of them with a pixel, C cells of the image, D joint embedding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ovseg.clip.embedding_files import EmbeddingFile, embedding_file, read_embeddings, write_embeddings
from ovseg.core.images import ImageArray
from ovseg.evaluation import region_table
from ovseg.segmentation.region_crops import RegionCrops
from ovseg.segmentation.region_encoder import RegionEncoder

Place = tuple[Path, bytes]
"""Where an embedding is stored: the file of CLIP and image, and the name of the mask in it."""
RegionName = tuple[str, str, bytes]
"""A region by the name of the CLIP that embeds it, the `image_hash`, and its name in an `EmbeddingFile`."""


@dataclass(frozen=True, eq=False)
class ImageRegions:
    """Masks of an image.

    Attributes:
        pixels: uint8 RGB `[H, W, 3]`.
        image: its `image_hash`.
        rles: the Q masks; None for one without a pixel.
    """

    pixels: ImageArray
    image: str
    rles: tuple[bytes | None, ...]

    @cached_property
    def valid(self) -> Tensor:
        """Which masks have a pixel, bool `[Q]`."""
        return torch.tensor([rle is not None for rle in self.rles], dtype=torch.bool)


@dataclass(frozen=True)
class _Region:
    """One mask that a CLIP is to encode, or a cell of the image, see `RegionEncoder.rows`."""

    model: str
    regions: ImageRegions
    rle: bytes


def embed_regions(
    encoders: Mapping[str, RegionEncoder],
    wanted: Sequence[tuple[str, ImageRegions]],
    folders: Mapping[str, Path] | None,
    embedded: Mapping[RegionName, Tensor] | None = None,
) -> dict[tuple[str, ImageRegions], Tensor]:
    """Embed masks of several images; embeddings that are neither given nor stored are computed and stored.

    Args:
        encoders: region encoders by the name of their CLIP; all crop alike.
        wanted: names of CLIPs, and the masks that each is to embed.
        folders: the folder of each CLIP's embeddings; None stores none.
        embedded: embeddings from a table, see `read_embedded`; None if there is no table. All others are rounded as those of
            a table are, so that no result depends on what it lacks.

    Returns:
        for each of `wanted` what `RegionEncoder.embed` returns: the embeddings of the masks with a pixel, float32 `[V, D]`,
            and any cells behind them.
    """
    rows = {(model, regions): encoders[model].rows(regions.rles) for model, regions in wanted}
    files = {
        (model, regions): embedding_file(
            folders[model] if folders else Path(model), regions.image, of_image, encoders[model].by_crops
        )
        for (model, regions), of_image in rows.items()
    }
    of_files: dict[Path, dict[bytes, _Region]] = defaultdict(dict)
    known: dict[Place, Tensor] = {}
    missing: dict[Place, _Region] = {}
    for (model, regions), file in files.items():
        for name, rle in zip(file.regions, filter(None, rows[model, regions]), strict=True):
            given = embedded.get((model, regions.image, name)) if embedded else None
            if given is None:
                of_files[file.path][name] = _Region(model, regions, rle)
            else:
                known[file.path, name] = given
    for path, of_file in of_files.items():
        stored = read_embeddings(EmbeddingFile(path, tuple(of_file))) if folders else [None] * len(of_file)
        for (name, region), vector in zip(of_file.items(), stored, strict=True):
            if vector is None:
                missing[path, name] = region
            else:
                known[path, name] = vector if embedded is None else _rounded(vector)
    encoded = _encode(encoders, missing)
    if folders:
        _store(encoded)
    known |= encoded if embedded is None else {place: _rounded(vector) for place, vector in encoded.items()}
    embeddings = {}
    for (model, regions), file in files.items():
        vectors = [known[file.path, name] for name in file.regions]
        embeddings[model, regions] = torch.stack(vectors) if vectors else torch.zeros(0, encoders[model].clip.width)
    return embeddings


def read_embedded(table: Path, unit: str, models: Sequence[str]) -> dict[RegionName, Tensor]:
    """Read the embeddings of a unit from a table of the step `embed`: float32 `[D]`, rounded to float16.

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


def embedded_rows(
    encoders: Mapping[str, RegionEncoder],
    embeddings: Mapping[tuple[str, ImageRegions], Tensor],
    items: Mapping[str, int],
) -> region_table.Embedded:
    """Return embeddings as rows of a table, each once, in the order of the images.

    Args:
        encoders: region encoders by the name of their CLIP.
        embeddings: what `embed_regions` returned.
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
    return region_table.Embedded(
        items=[item for _, (item, _, _) in rows],
        models=[model for (model, _, _), _ in rows],
        images=[image for (_, image, _), _ in rows],
        regions=[name for (_, _, name), _ in rows],
        masks=[mask for _, (_, mask, _) in rows],
        vectors=vectors.half().numpy(),
    )


def _rounded(vector: Tensor) -> Tensor:
    """A vector as a table would keep it."""
    return vector.half().float()


def _store(encoded: Mapping[Place, Tensor]) -> None:
    for path, places in groupby(sorted(encoded), key=lambda place: place[0]):
        file = EmbeddingFile(path, tuple(name for _, name in places))
        write_embeddings(file, torch.stack([encoded[path, name] for name in file.regions]))


def _encode(encoders: Mapping[str, RegionEncoder], missing: Mapping[Place, _Region]) -> dict[Place, Tensor]:
    crops: dict[tuple[str, bytes], list[Place]] = defaultdict(list)
    one_pass: dict[tuple[str, ImageRegions], list[Place]] = defaultdict(list)
    for place, region in missing.items():
        if encoders[region.model].by_crops:
            crops[region.regions.image, region.rle].append(place)
        else:
            one_pass[region.model, region.regions].append(place)
    encoded: dict[Place, Tensor] = {}
    size = next(iter(encoders.values())).pass_size
    of_crops = list(crops.values())
    for start in range(0, len(of_crops), size):
        encoded |= _encode_crops(encoders, missing, of_crops[start : start + size])
    for (model, regions), places in one_pass.items():
        encoder = encoders[model]
        embeddings = encoder.embed(encoder.crop_regions(regions.pixels, regions.rles))
        of_rle = dict(zip(filter(None, encoder.rows(regions.rles)), embeddings, strict=True))
        encoded |= {place: of_rle[missing[place].rle] for place in places}
    return encoded


def _encode_crops(
    encoders: Mapping[str, RegionEncoder], missing: Mapping[Place, _Region], places: Sequence[Sequence[Place]]
) -> dict[Place, Tensor]:
    """Encode masks of several images; `places` has the places of each, one for each CLIP, and it is cropped once for all."""
    regions = [missing[of_crop[0]] for of_crop in places]
    cropper = encoders[regions[0].model]
    cropped = [
        cropper.crop_regions(one.pixels, [region.rle for region in of_image])
        for one, of_image in groupby(regions, key=lambda region: region.regions)
    ]
    crops, masks = (torch.cat([getattr(one, part) for one in cropped]) for part in ("crops", "masks"))
    encoded: dict[Place, Tensor] = {}
    for model, encoder in encoders.items():
        rows = {place: i for i, of_crop in enumerate(places) for place in of_crop if missing[place].model == model}
        if rows:
            of_model = list(rows.values())
            batch = RegionCrops(
                crops[of_model],
                masks[of_model],
                torch.ones(len(rows), dtype=torch.bool),
                tuple(regions[i].rle for i in of_model),
            )
            encoded |= dict(zip(rows, encoder.embed(batch), strict=True))
    return encoded
