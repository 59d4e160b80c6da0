"""Mask accuracy while a training runs: how many annotated masks of a held-out split CLIP recognizes, every N steps.

It answers early whether a training teaches what it should, which its loss does not say. It changes no weight.

Shapes: N masks, S input side of crops, g rows and columns of an encoder's cells, K classes, D joint width.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from ovseg.clip.load import Clip
from ovseg.clip.pseudo_text import compare
from ovseg.clip.regions import cut_region, encode_in_one_pass, masks_on_grid, whole_image, with_cells
from ovseg.core import crops, hashing, masks, tables
from ovseg.core.errors import BadItem, OvsegError
from ovseg.core.options import CropOptions, HeldoutOptions, Templates
from ovseg.datasets.coco import find_image
from ovseg.datasets.references import category_names
from ovseg.proposals import Proposal
from ovseg.proposals.ground_truth import ground_truth, open_annotations
from ovseg.training.distributed import World

log = logging.getLogger("ovseg")

MAX_MASKS = 1000
"""The number of masks that are measured at most: of the first images with annotations."""
FIGURE = "heldout_accuracy"


@dataclass(frozen=True)
class HeldoutMasks:
    """Annotated masks as a CLIP encodes them.

    Attributes:
        inputs: for each image what is encoded: crops, uint8 `[n, 3, S, S]`, and their masks, bool `[n, S, S]`; for an encoder
            of one pass the image, uint8 `[3, S, S]`, and the masks on its grid, float32 `[n, g, g]`.
        labels: the class of each of the N masks, int64 `[N]`.
        names: the names of K classes.
        templates: the text templates of the names.
    """

    inputs: list[tuple[Tensor, Tensor]]
    labels: Tensor
    names: list[str]
    templates: Templates

    def accuracy(self, clip: Clip) -> float:
        """Measure the fraction of the masks, in [0, 1], whose class is the most similar one.

        Args:
            clip: a CLIP of the input size and the region encoder that the masks were read for.
        """
        texts = clip.embed_names(self.names, self.templates)
        if clip.regions.encoder == "crops":
            images, crop_masks = (torch.cat(tensors) for tensors in zip(*self.inputs, strict=True))
            embeddings = clip.encode_crops(images, crop_masks)
            scores = compare(embeddings, texts)
        else:
            scores = torch.cat([self._compare(clip, texts, image, on_grid) for image, on_grid in self.inputs])
        return float((scores.argmax(1) == self.labels).float().mean())

    def _compare(self, clip: Clip, texts: Tensor, image: Tensor, on_grid: Tensor) -> Tensor:
        """The similarities of the masks of an image and the K texts, `[n, K]`, in one pass."""
        if clip.pseudo_text is None:
            return compare(encode_in_one_pass(clip, image, on_grid), texts)
        embeddings = encode_in_one_pass(clip, image, with_cells(on_grid))
        return compare(embeddings[: len(on_grid)], texts, clip.pseudo_text, embeddings[len(on_grid) :])


def read_heldout(clip: Clip, heldout: HeldoutOptions, crop: CropOptions) -> HeldoutMasks:
    """Read the annotated masks of the first images of the held-out split, up to `MAX_MASKS` of them.

    Args:
        clip: the CLIP that is to encode them.
        heldout: images, annotations, and how they are used.
        crop: the crop recipe.

    Raises:
        OvsegError: the annotations cannot be used, or none of their masks and images can be read.
    """
    color = crops.fill_color(crop.fill, clip.mean.tolist())
    inputs: list[tuple[Tensor, Tensor]] = []
    labels: list[int] = []
    with TemporaryDirectory() as scratch:
        store = open_annotations(heldout.annotations, Path(scratch))
        names = list(category_names(heldout.annotations, store, unique=True).values())
        source = ground_truth(heldout.annotations, Path(scratch), labels=True)
        for record in store.images(heldout.limit):
            try:
                image = find_image(heldout.images, record, heldout.orientation, Counter())
                items = [item for item in source(image) if isinstance(item, Proposal)][: MAX_MASKS - len(labels)]
                pixels = image.pixels
            except BadItem as problem:
                log.warning("heldout: image %s is left out: %s", record.get("id"), problem)
                continue
            if not items:
                continue
            of_image = [masks.decode(item.rle, image.height, image.width) for item in items]
            if clip.regions.encoder == "crops":
                cut = [cut_region(pixels, mask, clip.size, color, crop.antialias) for mask in of_image]
                inputs.append((torch.stack([one for one, _ in cut]), torch.stack([mask for _, mask in cut])))
            else:
                inputs.append((whole_image(clip, pixels), masks_on_grid(clip, of_image)))
            labels += [names.index(str(item.label)) for item in items]
            if len(labels) == MAX_MASKS:
                break
    if not labels:
        raise OvsegError(f"no mask of {heldout.annotations} can be read together with its image in {heldout.images}")
    return HeldoutMasks(inputs, torch.tensor(labels), names, heldout.templates)


class Monitor:
    """Measures every N steps, and keeps the latest value for the curves; a part of checkpoints.

    Args:
        name: the name of the training, for the log.
        every: N; 0 measures nothing.
        measure: returns a fraction; None on a rank that does not measure.
    """

    def __init__(self, name: str = "", every: int = 0, measure: Callable[[], float] | None = None) -> None:
        self.name, self.every, self.measure = name, every, measure
        self.value = self.first = math.nan

    def start(self) -> None:
        """Measure before the first step, unless an earlier run has done so."""
        if math.isnan(self.value):
            self._measure("before the first step")
            self.first = self.value

    def after(self, step: int) -> dict[str, float]:
        """Measure if it is time, and return the latest value by its name in the curves; nothing if nothing is measured.

        Args:
            step: the number of steps that are done.
        """
        if not self.every:
            return {}
        if step % self.every == 0:
            self._measure(f"after {step:,} steps")
        return {FIGURE: self.value}

    def _measure(self, when: str) -> None:
        if self.measure is not None:
            self.value = self.measure()
            since = "" if math.isnan(self.first) else f" ({self.value - self.first:+.3f})"
            log.info("%s: %s %.3f of the held-out masks are recognized%s", self.name, when, self.value, since)

    def state_dict(self) -> dict[str, Any]:
        """The latest value, and the one before the first step."""
        return {"value": self.value, "first": self.first}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them."""
        self.value, self.first = float(state_dict["value"]), float(state_dict["first"])


def heldout_monitor(
    name: str,
    every: int,
    heldout: HeldoutOptions | None,
    clip: Clip,
    now: Callable[[], Clip],
    crop: CropOptions,
    world: World,
) -> Monitor:
    """Make the monitor of a training; its first rank measures.

    Args:
        name: the name of the training.
        every: the number of steps between two measurements; 0 for none.
        heldout: the held-out split; None to measure nothing.
        clip: the CLIP before the training, of the region encoder that is trained.
        now: returns the CLIP as it is.
        crop: the crop recipe.
        world: the process group.

    Raises:
        OvsegError: the held-out split cannot be used, see `read_heldout`.
    """
    if not every or heldout is None:
        return Monitor()
    if world.rank != 0:
        return Monitor(name, every)
    heldout_masks = read_heldout(clip, heldout, crop)
    return Monitor(name, every, lambda: heldout_masks.accuracy(now()))


def heldout_key(every: int, heldout: HeldoutOptions | None) -> dict[str, str]:
    """Return what the curves of a training depend on besides its own parameters; nothing without a monitor."""
    if not every or heldout is None:
        return {}
    options = heldout.model_dump(mode="json", exclude={"images", "annotations"})
    return {"heldout": hashing.fingerprint(annotations=tables.annotations_hash(heldout.annotations), **options)}
