"""Whole images with their regions, for training a region encoder: an endless order that follows from the seed alone.

Shapes: B images, S side of the input, Q regions of an image (of the one with most, in a batch), g rows and columns of patches,
R references, P pairs, C crops, s side of the teacher's input.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ovseg.clip.embedding_files import EmbeddingFile, embedding_file, image_hash, read_embeddings
from ovseg.clip.region_tokens import mean_of_cells
from ovseg.clip.regions import squash_image
from ovseg.core import crops, masks
from ovseg.core.errors import BadItem
from ovseg.core.images import ImageArray
from ovseg.training.distributed import batch_positions
from ovseg.training.readers import reader_start
from ovseg.training.region_sources import RegionTables, region_overlaps

log = logging.getLogger("ovseg")


class RegionImage(TypedDict):
    """One image.

    Attributes:
        image: uint8 `[3, S, S]`; the aspect ratio is not kept.
        masks: the fraction of each patch that each region covers, float32 `[Q, g, g]`.
        overlaps: the IoU of references and regions, float32 `[R, Q]`; zeros where the data set does not compute it.
        classes: the class of each reference, int64 `[R]`.
        pairs: region and class of each pair, int64 `[P, 2]`.
        taught: the teacher's unit vectors of the regions, float32 `[Q, D]`; None without a teacher, or if it has not encoded
            them before.
        crops: the regions' crops for a teacher that has not encoded them, uint8 `[Q, 3, s, s]`; otherwise `[0, 3, s, s]`.
        crop_masks: their masks, bool `[Q, s, s]`.
        teacher_file: where the teacher's vectors are kept; None without a teacher.
        key: the name of the image.
    """

    image: Tensor
    masks: Tensor
    overlaps: Tensor
    classes: Tensor
    pairs: Tensor
    taught: Tensor | None
    crops: Tensor
    crop_masks: Tensor
    teacher_file: EmbeddingFile | None
    key: str


class RegionBatch(TypedDict):
    """B images, their regions padded to the largest number.

    Attributes:
        image: uint8 `[B, 3, S, S]`.
        masks: float32 `[B, Q, g, g]`, zeros where padded.
        real: which regions are no padding, bool `[B, Q]`.
        overlaps: float32 `[R, Q]`.
        references: image of the batch and class of each reference, int64 `[R, 2]`.
        pairs: image of the batch, region and class of each pair, int64 `[P, 3]`.
        taught: what the teacher has encoded before, for each image, see `RegionImage`.
        crops: uint8 `[C, 3, s, s]`, those of the other images' real regions in the order of `masks`.
        crop_masks: bool `[C, s, s]`.
        teacher_files: where the teacher's vectors of each image are kept.
        keys: B names.
    """

    image: Tensor
    masks: Tensor
    real: Tensor
    overlaps: Tensor
    references: Tensor
    pairs: Tensor
    taught: list[Tensor | None]
    crops: Tensor
    crop_masks: Tensor
    teacher_files: list[EmbeddingFile | None]
    keys: list[str]


@dataclass(frozen=True)
class TeacherInput:
    """How a teacher sees regions.

    Attributes:
        size, color, antialias: arguments of `crops.crop_region`.
        folder: where its vectors are kept, see `clip.embedding_files`.
    """

    size: int
    color: ImageArray | None
    antialias: bool
    folder: Path


@dataclass(frozen=True)
class RegionDataset(Dataset[RegionImage]):
    """Images with their regions, in an endless order: epoch after epoch, each in an order of its own.

    Attributes:
        tables: images, regions and texts.
        size: S in pixels.
        grid: g.
        seed: the seed of the order.
        teacher: how a teacher sees regions; None without one.
        overlaps: whether the IoU of references and regions is computed.
    """

    tables: RegionTables
    size: int
    grid: int
    seed: int
    teacher: TeacherInput | None = None
    overlaps: bool = True

    def __len__(self) -> int:
        return len(self.tables.images)

    def __getitem__(self, position: int) -> RegionImage:
        """Make the image at a position of the endless order; one without regions if it cannot be read."""
        epoch, place = divmod(position, len(self))
        record = self.tables.images[int(_epoch_order(self.seed, epoch, len(self))[place])]
        try:
            pixels = record.read_pixels()
        except BadItem as problem:  # the file has changed since it was indexed
            log.warning("finetune: %s is left out: %s", record.name, problem)
            return self._make(np.zeros((1, 1, 3), np.uint8), record.name, None)
        return self._make(pixels, record.name, record.image_id)

    def _make(self, pixels: ImageArray, name: str, image_id: int | None) -> RegionImage:
        rows = self.tables.rows(-1 if image_id is None else image_id)
        regions = [masks.decode(row["rle"], row["height"], row["width"]) for row in rows.regions]
        stack = torch.from_numpy(np.stack(regions) if regions else np.zeros((0, 1, 1), bool))
        numbers = self.tables.numbers
        file, taught, cut = None, None, []
        if self.teacher:
            file = embedding_file(self.teacher.folder, image_hash(pixels), [row["rle"] for row in rows.regions])
            stored = [vector for vector in read_embeddings(file) if vector is not None]
            taught = torch.stack(stored) if stored and len(stored) == len(regions) else None
        if self.teacher and taught is None:
            recipe = self.teacher.size, self.teacher.color, self.teacher.antialias
            boxes = [tuple(row["box"]) for row in rows.regions]
            cut = [crops.crop_region(pixels, m, box, *recipe) for m, box in zip(regions, boxes, strict=True)]
        side = self.teacher.size if self.teacher else 0
        overlaps = torch.zeros(len(rows.references), len(regions))
        if self.overlaps:
            overlaps = torch.from_numpy(region_overlaps(rows.regions, rows.references)).float()
        return {
            "image": squash_image(pixels, self.size),
            "masks": mean_of_cells(stack[None], (self.grid, self.grid))[0],
            "overlaps": overlaps,
            "classes": torch.tensor([numbers[text] for text in rows.references], dtype=torch.int64),
            "pairs": torch.tensor([(i, numbers[text]) for i, text in rows.pairs], dtype=torch.int64).reshape(-1, 2),
            "taught": taught,
            "crops": torch.stack([c for c, _ in cut]) if cut else torch.zeros(0, 3, side, side, dtype=torch.uint8),
            "crop_masks": torch.stack([m for _, m in cut]) if cut else torch.zeros(0, side, side, dtype=torch.bool),
            "teacher_file": file,
            "key": name,
        }


def collate_regions(samples: list[RegionImage]) -> RegionBatch:
    """Put images together, see `RegionBatch`."""
    most = max(len(s["masks"]) for s in samples)
    stacked = [torch.nn.functional.pad(s["masks"], (0, 0, 0, 0, 0, most - len(s["masks"]))) for s in samples]
    overlaps = [torch.nn.functional.pad(s["overlaps"], (0, most - len(s["masks"]))) for s in samples]
    return {
        "image": torch.stack([s["image"] for s in samples]),
        "masks": torch.stack(stacked),
        "real": torch.stack([torch.arange(most) < len(s["masks"]) for s in samples]),
        "overlaps": torch.cat(overlaps),
        "references": torch.cat([_with_image(i, s["classes"][:, None]) for i, s in enumerate(samples)]),
        "pairs": torch.cat([_with_image(i, s["pairs"]) for i, s in enumerate(samples)]),
        "taught": [s["taught"] for s in samples],
        "crops": torch.cat([s["crops"] for s in samples]),
        "crop_masks": torch.cat([s["crop_masks"] for s in samples]),
        "teacher_files": [s["teacher_file"] for s in samples],
        "keys": [s["key"] for s in samples],
    }


def read_regions(
    data: RegionDataset, batch_size: int, rank: int, ranks: int, begin: int, workers: int
) -> Iterator[RegionBatch]:
    """Iterate over this rank's parts of the global batches, without end.

    Args:
        data: the images.
        batch_size: the number of images of all ranks together; a multiple of `ranks`.
        rank: the number of this rank.
        ranks: the number of ranks.
        begin: the number of the first batch; an earlier run has used those before.
        workers: the number of loader processes; 0 loads in this process. It changes no result.
    """
    positions = batch_positions(batch_size, rank, ranks, begin)
    loader: DataLoader[RegionBatch] = DataLoader(
        data,  # type: ignore[arg-type]
        batch_sampler=positions,
        num_workers=workers,
        collate_fn=collate_regions,
        worker_init_fn=reader_start(),
    )
    return iter(loader)


def _with_image(number: int, rows: Tensor) -> Tensor:
    return torch.cat([torch.full((len(rows), 1), number), rows], dim=1)


@lru_cache(maxsize=2)  # a batch can have images of two epochs
def _epoch_order(seed: int, epoch: int, size: int) -> NDArray[np.int64]:
    """The order of `size` images in an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(size)
