"""Annotated images for training the proposal network: one mask for each class in sight, randomly scaled and cropped.

Everything random about a sample follows from (seed, epoch, its number), so that the order of reading and the number of
loading processes change nothing, and a training that continues reads nothing twice.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from ovseg.core import masks
from ovseg.core.errors import BadItem, OvsegError
from ovseg.core.image_records import ImageRecord
from ovseg.proposals import Proposal
from ovseg.proposals.ground_truth import ground_truth

log = logging.getLogger("ovseg")

STEP = 0.1  # between two scales


class Scene(TypedDict):
    """One image: `image` uint8 `[3, S, S]`, `masks` bool `[N, S, S]`, `classes` int64 `[N]`, N >= 0, each class once."""

    image: Tensor
    masks: Tensor
    classes: Tensor


class AnnotatedSegmentationDataset(Dataset[Scene]):
    """Images and what is annotated in them.

    Args:
        images: of the index.
        annotations, table: see `ground_truth`.
        scratch: folder for its streamed copy.
        numbers: class number of each label; masks with other labels are left out.
        crop: S, in pixels.
        scales: least and greatest short side of the image before it is cropped, as a share of S.
        colour: change brightness, contrast, saturation and hue.
        seed: of all choices.
    """

    def __init__(
        self,
        images: Sequence[ImageRecord],
        annotations: Path,
        scratch: Path,
        numbers: Mapping[str, int],
        *,
        crop: int,
        scales: tuple[float, float],
        colour: bool,
        seed: int,
        table: Path | None = None,
    ) -> None:
        self.images, self.annotations, self.scratch, self.numbers = images, annotations, scratch, numbers
        self.seed, self.table = seed, table
        self.change = augment(crop, scales, colour)
        self.empty: Scene = {
            "image": torch.zeros(3, crop, crop, dtype=torch.uint8),
            "masks": torch.zeros(0, crop, crop, dtype=torch.bool),
            "classes": torch.zeros(0, dtype=torch.int64),
        }

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> Scene:
        """The scene at `place` of the endless order: epoch after epoch, each in an order of its own."""
        epoch, within = divmod(place, len(self))
        record = self.images[int(np.random.default_rng([self.seed, epoch]).permutation(len(self))[within])]
        try:
            found = self._by_class(record)
            pixels = record.pixels
        except BadItem as problem:  # gone since it was indexed: it teaches nothing
            log.warning("proposal_network: %s is left out: %s", record.file, problem)
            return self.empty
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence([self.seed, place]).generate_state(1)[0]))
            image = tv_tensors.Image(torch.from_numpy(pixels.copy()).permute(2, 0, 1))
            stack = np.stack(list(found.values())) if found else np.zeros((0, *pixels.shape[:2]), bool)
            image, stacked = self.change(image, tv_tensors.Mask(torch.from_numpy(stack)))
        left = stacked.flatten(1).any(1)
        return {
            "image": image.as_subclass(Tensor).contiguous(),
            "masks": stacked.as_subclass(Tensor)[left].contiguous(),
            "classes": torch.tensor(list(found), dtype=torch.int64)[left],
        }

    def _by_class(self, image: ImageRecord) -> dict[int, np.ndarray]:
        """One mask for each class: that of all its annotations together."""
        if not hasattr(
            self, "_source"
        ):  # in each loading process once: a connection to SQLite does not cross processes
            self._source = ground_truth(self.annotations, self.scratch, True, self.table)
        found: dict[int, np.ndarray] = {}
        for item in self._source(image):
            if isinstance(item, Proposal) and item.label is not None and item.label in self.numbers:
                number = self.numbers[item.label]
                mask = masks.decode(item.rle, image.height, image.width)
                found[number] = found[number] | mask if number in found else mask
        return found

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_source"}


def augment(crop: int, scales: tuple[float, float], colour: bool) -> v2.Transform:
    """Random scale, crop, flip and colour, as MaskFormer is trained; see `AnnotatedSegmentationDataset`."""
    number = round((scales[1] - scales[0]) / STEP) + 1
    sides = [max(1, round(crop * scale)) for scale in np.linspace(*scales, number)]
    steps = [
        v2.RandomShortestSize(sides, max_size=4 * max(sides)),
        v2.RandomCrop((crop, crop), pad_if_needed=True, fill={tv_tensors.Image: 128, tv_tensors.Mask: 0}),
        v2.RandomHorizontalFlip(),
    ]
    return v2.Compose([*steps, v2.RandomPhotometricDistort()] if colour else steps)


def scenes(
    data: AnnotatedSegmentationDataset, batch_size: int, rank: int, ranks: int, begin: int, workers: int
) -> Iterator[list[Scene]]:
    """This rank's share of every batch from number `begin` on, for ever.

    Args:
        data: the images.
        batch_size: of all ranks together; a multiple of `ranks`.
        rank, ranks: this process among all.
        begin: batches that an earlier run has used.
        workers: loading processes; 0 loads in this one.

    Raises:
        OvsegError: no images.
    """
    if not len(data):
        raise OvsegError(f"{data.annotations} has no annotated image; is it of the images that are indexed?")
    share = batch_size // ranks

    def places() -> Iterator[list[int]]:
        number = begin
        while True:
            first = number * batch_size + rank * share
            yield list(range(first, first + share))
            number += 1

    loader: DataLoader[Scene] = DataLoader(data, batch_sampler=places(), num_workers=workers, collate_fn=list)
    return iter(loader)
