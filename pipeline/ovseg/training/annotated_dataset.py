"""Annotated images for training the proposal network: one mask for each class in an image, randomly scaled and cropped.

All random choices for a sample follow from the seed and the sample's position, so the order of reading and the number of
loader processes change nothing, and a training that is continued reads no sample again.

Shapes: S side of the crop in pixels, N masks of an image, H, W image.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from ovseg.core.errors import BadItem, OvsegError
from ovseg.core.image_records import ImageRecord
from ovseg.engine.totals import Total, check_totals
from ovseg.proposals import Proposal, Source
from ovseg.proposals.ground_truth import ground_truth, item_counts, masks_by_label
from ovseg.training.distributed import batch_positions
from ovseg.training.readers import reader_start

log = logging.getLogger("ovseg")

IMAGES_CHECKED = 64  # at least, before a training
WITHOUT_MASKS = "image_without_usable_mask"
"""Rejection reason of an image that has annotated masks, of which none can be used."""
SCALE_STEP = 0.1  # the difference between two scales


class Scene(TypedDict):
    """One training sample.

    Attributes:
        image: uint8 `[3, S, S]`.
        masks: bool `[N, S, S]`, N >= 0.
        classes: the class number of each mask, int64 `[N]`; no class occurs twice.
        key: the name of the image.
    """

    image: Tensor
    masks: Tensor
    classes: Tensor
    key: str


class AnnotatedSegmentationDataset(Dataset[Scene]):
    """Images with their annotated masks, in an endless order: epoch after epoch, each in an order of its own.

    Args:
        images: the images.
        annotations: masks with class names, see `ground_truth`.
        scratch: the folder of the annotations' streamed copy.
        numbers: the class number of each label; masks with other labels are left out.
        crop_size: S.
        scales: the smallest and largest short side of an image before it is cropped, as multiples of S.
        color_jitter: whether brightness, contrast, saturation and hue are changed at random.
        seed: the seed of all random choices.
        table: the class table of annotations that are label maps, see `ground_truth`.
    """

    def __init__(
        self,
        images: Sequence[ImageRecord],
        annotations: Path,
        scratch: Path,
        numbers: Mapping[str, int],
        *,
        crop_size: int,
        scales: tuple[float, float],
        color_jitter: bool,
        seed: int,
        table: Path | None = None,
    ) -> None:
        self.images, self.annotations, self.scratch, self.numbers = images, annotations, scratch, numbers
        self.seed, self.table, self.crop_size = seed, table, crop_size
        self.transform = augment(crop_size, scales, color_jitter)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, position: int) -> Scene:
        """Make the scene at a position of the endless order; one without masks if its image or masks cannot be read."""
        epoch, place = divmod(position, len(self))
        record = self.images[int(_epoch_order(self.seed, epoch, len(self))[place])]
        dropped: list[BadItem] = []
        try:
            unions = masks_by_label(self._source, record, self.numbers, dropped)
            if dropped and not unions:
                raise dropped[0]
            pixels = record.read_pixels()
        except BadItem as problem:  # the file has changed since it was indexed
            log.warning("proposal_network: %s is left out: %s", record.name, problem)
            return self._empty(record.name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence([self.seed, position]).generate_state(1)[0]))
            image = tv_tensors.Image(torch.from_numpy(pixels.copy()).permute(2, 0, 1))
            stack = np.stack(list(unions.values())) if unions else np.zeros((0, *pixels.shape[:2]), bool)
            image, stacked = self.transform(image, tv_tensors.Mask(torch.from_numpy(stack)))
        visible = stacked.flatten(1).any(1)
        return {
            "image": image.as_subclass(Tensor).contiguous(),
            "masks": stacked.as_subclass(Tensor)[visible].contiguous(),
            "classes": torch.tensor([self.numbers[label] for label in unions], dtype=torch.int64)[visible],
            "key": record.name,
        }

    def _empty(self, key: str) -> Scene:
        side = self.crop_size
        return {
            "image": torch.zeros(3, side, side, dtype=torch.uint8),
            "masks": torch.zeros(0, side, side, dtype=torch.bool),
            "classes": torch.zeros(0, dtype=torch.int64),
            "key": key,
        }

    def check_sample(self, max_dropped: float) -> None:
        """Check the annotated masks of some images, before hours are spent on a training.

        Args:
            max_dropped: the largest fraction of these masks, and of these images for want of a mask that can be used, that may
                be dropped for one reason.

        Raises:
            OvsegError: no mask of these images can be used, or too many are dropped; the message has an example.
        """
        counts: Counter[str] = Counter()
        examples: dict[str, str] = {}
        source, checked = self._open(), self.images[:: max(1, len(self) // IMAGES_CHECKED)]
        for record in checked:
            items = list(source(record))
            problems = [item for item in items if isinstance(item, BadItem)]
            for item in items:
                counts.update({"masks": 1} if isinstance(item, Proposal) else item_counts(item))
            for problem in problems:
                examples.setdefault(problem.reason, f"image {record.image_id}: {problem.detail}")
            if problems and len(problems) == len(items):
                counts[f"dropped.{WITHOUT_MASKS}"] += 1
                examples.setdefault(WITHOUT_MASKS, f"image {record.image_id}: {problems[0]}")
            else:
                counts["images"] += 1
        totals = (Total("images", WITHOUT_MASKS), Total("masks"))
        check_totals("proposal_network", totals, counts, max_dropped, examples.get)
        for reason, example in examples.items():
            number = counts[f"dropped.{reason}"]
            log.warning("proposal_network: %d %s in %d images; for example %s", number, reason, len(checked), example)

    @cached_property
    def _source(self) -> Source:
        """The annotations of this process."""
        return self._open()

    def _open(self) -> Source:
        """Open the annotations, in each process that reads them: a connection to SQLite cannot be shared with another one."""
        return ground_truth(self.annotations, self.scratch, True, self.table)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_source"}


@lru_cache(maxsize=2)  # a batch can have samples of two epochs
def _epoch_order(seed: int, epoch: int, size: int) -> NDArray[np.int64]:
    """The order of `size` images in an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(size)


def augment(crop_size: int, scales: tuple[float, float], color_jitter: bool) -> v2.Transform:
    """Make the random scale, crop, flip and colors of MaskFormer's training; see `AnnotatedSegmentationDataset`."""
    number = round((scales[1] - scales[0]) / SCALE_STEP) + 1
    sides = [max(1, round(crop_size * scale)) for scale in np.linspace(*scales, number)]
    steps = [
        v2.RandomShortestSize(sides, max_size=4 * max(sides)),
        v2.RandomCrop((crop_size, crop_size), pad_if_needed=True, fill={tv_tensors.Image: 128, tv_tensors.Mask: 0}),
        v2.RandomHorizontalFlip(),
    ]
    return v2.Compose([*steps, v2.RandomPhotometricDistort()] if color_jitter else steps)


def read_scenes(
    data: AnnotatedSegmentationDataset, batch_size: int, rank: int, ranks: int, begin: int, workers: int
) -> Iterator[list[Scene]]:
    """Iterate over this rank's parts of the global batches, without end.

    Args:
        data: the images.
        batch_size: the number of scenes of all ranks together; a multiple of `ranks`.
        rank: the number of this rank.
        ranks: the number of ranks.
        begin: the number of the first batch; an earlier run has used those before.
        workers: the number of loader processes; 0 loads in this process.

    Raises:
        OvsegError: there are no images.
    """
    if not len(data):
        raise OvsegError(f"{data.annotations} has no annotated image; is it of the images that are indexed?")
    positions = batch_positions(batch_size, rank, ranks, begin)
    loader: DataLoader[Scene] = DataLoader(
        data, batch_sampler=positions, num_workers=workers, collate_fn=list, worker_init_fn=reader_start()
    )
    return iter(loader)
