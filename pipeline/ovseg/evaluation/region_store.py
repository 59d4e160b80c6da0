"""Embeddings of regions, which are computed only if no table of the step `embed` has them and no earlier run has stored them.

Benchmarks share images, and benchmarks and annotated masks are evaluated again with other names, templates, weights or
thresholds of scores; CLIP encodes a region once for all of them, see `clip.embedding_files`. What is missing of several images
is encoded in the same forward passes: a pass takes as long with one crop as with all.

Shapes: Q masks of an image, V of them with a pixel, C cells of the image, D joint embedding.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from ovseg.clip.embedding_files import EmbeddingFile, embedding_file, read_embeddings, write_embeddings
from ovseg.core.images import ImageArray
from ovseg.segmentation.region_crops import RegionCrops
from ovseg.segmentation.region_encoder import RegionEncoder

log = logging.getLogger("ovseg")

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
        embedded: the embeddings of a table, float32 `[D]` each, see `region_rows`; None for none.

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
                known[path, name] = vector
    if missing and embedded is not None:
        _say_that_some_are_encoded()
    encoded = _encode(encoders, missing)
    if folders:
        _store(encoded)
    known |= encoded
    embeddings = {}
    for (model, regions), file in files.items():
        vectors = [known[file.path, name] for name in file.regions]
        embeddings[model, regions] = torch.stack(vectors) if vectors else torch.zeros(0, encoders[model].clip.width)
    return embeddings


@cache
def _say_that_some_are_encoded() -> None:
    log.warning(
        "the table of embeddings lacks masks, which are encoded here: another kind of device makes some that differ, or images "
        "or labels have changed since (`dvc repro -f embed@NAME` or `embed_heldout` writes the table again)"
    )


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
