"""Mask accuracy: does CLIP name annotated masks? The cheap measure of an adaptation; no proposals are involved.

Shapes: B regions of a batch, S input side, K classes, D joint width.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovseg.clip.load import Clip
from ovseg.core import crops, masks
from ovseg.core.errors import BadItem, OvsegError
from ovseg.core.image_records import ImageRecord
from ovseg.core.images import safe_path
from ovseg.core.vocabulary import Templates, embed
from ovseg.datasets.coco import open_coco
from ovseg.datasets.store import Record, Store
from ovseg.engine.progress import Progress
from ovseg.proposals.annotated import ground_truth

log = logging.getLogger("ovseg")


@dataclass(frozen=True)
class Regions:
    """Some annotated masks: `crop` uint8 `[B, 3, S, S]`, `mask` bool `[B, S, S]`, `label` int64 `[B]`."""

    crop: Tensor
    mask: Tensor
    label: NDArray[np.int64]


def measure(
    clips: Mapping[str, Clip],
    images: Path,
    truth: Path,
    *,
    fill: crops.Fill,
    antialias: bool,
    templates: Templates,
    batch_size: int,
    limit: int | None = None,
) -> dict[str, dict[str, float]]:
    """Mask accuracy of several CLIPs of one input size and text tower, in one pass over the images.

    Args:
        clips: by name.
        images: folder of the images.
        truth: COCO instances or panoptic JSON; categories may say whether they are "annotated" (known in training).
        fill, antialias: of the crop recipe; fill "keep" shows unmasked crops.
        templates: of the class names.
        batch_size: regions in one forward pass.
        limit: only the first that many images.

    Returns:
        for each CLIP, see `accuracies`, and "regions", how many there were.

    Raises:
        OvsegError: not a COCO file with categories; no region can be read.
    """
    first = next(iter(clips.values()))
    with TemporaryDirectory() as scratch:
        store = open_coco(truth, Path(scratch) / f"{truth.stem}.sqlite")  # the one that `ground_truth` reads
        categories = [record for _, record in sorted(store.categories().items())]
        names = [str(record["name"]) for record in categories]
        if not names:
            raise OvsegError(f"{truth} names no categories; mask accuracy needs a COCO file with class names")
        texts = embed(names, first.encode_texts, templates, batch_size)
        colour = crops.fill_colour(fill, first.mean.tolist())
        dropped: Counter[str] = Counter()
        regions = _regions(store, truth, images, Path(scratch), names, first.size, colour, antialias, limit, dropped)
        labels: list[NDArray[np.int64]] = []
        found: dict[str, list[NDArray[np.int64]]] = {name: [] for name in clips}
        for batch in _batched(regions, batch_size):
            labels.append(batch.label)
            for name, clip in clips.items():
                found[name].append((clip.encode_crops(batch.crop, batch.mask) @ texts.T).argmax(1).numpy())
    if not labels:
        raise OvsegError(f"no region of {truth} can be read; dropped {dict(dropped)}")
    label = np.concatenate(labels)
    annotated = np.array([bool(c.get("annotated")) for c in categories]) if _flagged(categories) else None
    return {
        name: accuracies(label, np.concatenate(guesses), len(names), annotated) | {"regions": float(len(label))}
        for name, guesses in found.items()
    }


def accuracies(
    label: NDArray[np.int64], guess: NDArray[np.int64], classes: int, annotated: NDArray[np.bool_] | None = None
) -> dict[str, float]:
    """Shares in [0, 1] of regions that are named rightly.

    Args:
        label, guess: int `[N]`, class numbers.
        classes: K.
        annotated: bool `[K]`; None if that is not known.

    Returns:
        "mask_accuracy" over all regions, "mask_accuracy_mean" the mean over the classes that occur; and both once more
        for annotated and for not annotated classes. What has no region is left out.
    """
    right = np.bincount(label[label == guess], minlength=classes)
    number = np.bincount(label, minlength=classes)
    every = {"": np.ones(classes, bool)}
    if annotated is not None:
        every |= {"_annotated": annotated, "_not_annotated": ~annotated}
    shares = {}
    for suffix, chosen in every.items():
        there = chosen & (number > 0)
        if there.any():
            shares[f"mask_accuracy{suffix}"] = float(right[there].sum() / number[there].sum())
            shares[f"mask_accuracy_mean{suffix}"] = float((right[there] / number[there]).mean())
    return shares


def _flagged(categories: list[Record]) -> bool:
    return any("annotated" in record for record in categories)


Region = tuple[Tensor, Tensor, int]


def _regions(
    store: Store,
    truth: Path,
    images: Path,
    scratch: Path,
    names: list[str],
    size: int,
    colour: NDArray[np.uint8] | None,
    antialias: bool,
    limit: int | None,
    dropped: Counter[str],
) -> Iterator[Region]:
    """Crop, mask and class number of each annotated mask; those that cannot be read are counted by reason."""
    source = ground_truth(truth, scratch, labels=True)
    number = {name: i for i, name in enumerate(names)}
    records = list(islice(store.images(), limit))
    with Progress("mask accuracy", len(records), "images") as progress:
        for record in records:
            counts: Counter[str] = Counter(regions=0)
            try:
                image = open_image(images, record)
                for proposal in source(image):
                    if isinstance(proposal, BadItem):
                        counts[f"dropped.{proposal.reason}"] += 1
                    elif proposal.label in number:
                        mask = masks.decode(proposal.rle, image.height, image.width)
                        box = masks.box(proposal.rle, image.height, image.width)
                        crop, inside = crops.crop_region(image.pixels, mask, box, size, colour, antialias)
                        counts["regions"] += 1
                        yield crop, inside, number[proposal.label]
            except BadItem as problem:  # the image itself
                counts[f"dropped.{problem.reason}"] += 1
            dropped.update(counts)
            progress.add(counts)


def open_image(images: Path, record: Record) -> ImageRecord:
    """The image of a COCO record.

    Raises:
        BadItem: `no_size`, `missing` or `unsafe_path`.
    """
    name, width, height = (record.get(key) for key in ("file_name", "width", "height"))
    if not isinstance(width, int) or not isinstance(height, int):
        raise BadItem("no_size", f"{name} has no width and height")
    path = safe_path(images, str(name))
    if not path.is_file():
        raise BadItem("missing", f"{path} is missing")
    return ImageRecord(images, int(record["id"]), str(name), 0, path.stat().st_size, width, height)


def _batched(regions: Iterator[Region], size: int) -> Iterator[Regions]:
    while some := list(islice(regions, size)):
        crop, mask, label = zip(*some, strict=True)
        yield Regions(torch.stack(crop), torch.stack(mask), np.array(label))
