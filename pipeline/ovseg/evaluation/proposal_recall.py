"""Average recall of proposals against true masks: what the proposal network is worth, apart from any names."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from ovseg.core import masks
from ovseg.core.errors import BadItem, OvsegError
from ovseg.core.image_records import ImageRecord
from ovseg.datasets.coco import open_coco
from ovseg.engine.progress import Progress
from ovseg.evaluation.mask_accuracy import open_image
from ovseg.proposals import Proposal, Source
from ovseg.proposals.annotated import ground_truth

LIMITS = np.arange(0.5, 1.0, 0.05)  # of IoU, as COCO's


def measure_recall(source: Source, images: Path, truth: Path, limit: int | None = None) -> dict[str, float]:
    """Recall of a source's proposals. What a network is taught is one mask for each class in sight, so true masks of a
    class are taken together.

    Args:
        source: of proposals.
        images: folder of the images.
        truth: COCO instances or panoptic JSON; categories may say whether they are "annotated" (known in training).
        limit: only the first that many images.

    Returns:
        see `recalls`; "masks" and "proposals", how many there were.

    Raises:
        OvsegError: no true mask can be read.
    """
    best: list[tuple[str, float]] = []
    number = 0
    with TemporaryDirectory() as scratch:
        store = open_coco(truth, Path(scratch) / f"{truth.stem}.sqlite")
        annotated = {str(c["name"]): c.get("annotated") for c in store.categories().values()}
        labelled = ground_truth(truth, Path(scratch), labels=True)
        records = list(islice(store.images(), limit))
        with Progress("proposal recall", len(records), "images") as progress:
            for record in records:
                counts: Counter[str] = Counter(masks=0)
                try:
                    image = open_image(images, record)
                    true = _by_class(labelled, image)
                    found = [item.rle for item in source(image) if isinstance(item, Proposal)]
                    overlap = masks.iou_matrix(list(true.values()), image.height, image.width, found)
                    best += zip(true, overlap.max(1, initial=0.0).tolist(), strict=True)
                    number += len(found)
                    counts["masks"] += len(true)
                except BadItem as problem:
                    counts[f"dropped.{problem.reason}"] += 1
                progress.add(counts)
    if not best:
        raise OvsegError(f"no mask of {truth} can be read; are its images in {images}?")
    overlaps = np.array([value for _, value in best])
    flags = [annotated[label] for label, _ in best]
    known = None if all(flag is None for flag in flags) else np.array(flags, bool)
    return recalls(overlaps, known) | {"masks": float(len(best)), "proposals": float(number)}


def recalls(overlaps: NDArray[np.float64], annotated: NDArray[np.bool_] | None = None) -> dict[str, float]:
    """Recall from the best overlap of each true mask.

    Args:
        overlaps: IoU with the best proposal, float `[N]` in [0, 1].
        annotated: bool `[N]`; None if that is not known.

    Returns:
        "ar", mean of the recalls at IoU 0.5, 0.55, ... 0.95; "recall_50" and "recall_75"; the same with the suffixes
        "_annotated" and "_not_annotated". In [0, 1].
    """
    every = {"": np.ones(len(overlaps), bool)}
    if annotated is not None:
        every |= {"_annotated": annotated, "_not_annotated": ~annotated}
    found: dict[str, float] = {}
    for suffix, chosen in every.items():
        if chosen.any():
            share = {f"{limit:.2f}": float((overlaps[chosen] >= limit - 1e-9).mean()) for limit in LIMITS}
            found |= {f"ar{suffix}": float(np.mean(list(share.values())))}
            found |= {f"recall_50{suffix}": share["0.50"], f"recall_75{suffix}": share["0.75"]}
    return found


def _by_class(labelled: Source, image: ImageRecord) -> dict[str, bytes]:
    height, width = image.height, image.width
    found: dict[str, masks.MaskArray] = {}
    for item in labelled(image):
        if isinstance(item, Proposal) and item.label is not None:
            mask = masks.decode(item.rle, height, width)
            found[item.label] = found[item.label] | mask if item.label in found else mask
    return {label: masks.encode(mask) for label, mask in found.items()}
