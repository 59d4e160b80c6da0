"""Average recall of proposals against annotated masks: the quality of the proposal network apart from any class names.

Shapes: N annotated masks, one for each class in each image.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from ovseg.core import masks
from ovseg.core.errors import BadItem
from ovseg.core.options import Orientation
from ovseg.datasets.coco import find_image, open_coco
from ovseg.datasets.references import check_categories, check_listed_images
from ovseg.engine.progress import Progress
from ovseg.engine.totals import Total, check_totals
from ovseg.proposals import Proposal, Source
from ovseg.proposals.ground_truth import ground_truth, masks_by_label

TOTALS = (Total("images", "image_.*"), Total("masks"))
IOU_THRESHOLDS = np.arange(0.5, 1.0, 0.05)  # COCO's


def measure_recall(
    source: Source,
    images: Path,
    annotations: Path,
    limit: int | None = None,
    orientation: Orientation = "exif",
    all_counts: Counter[str] | None = None,
    max_dropped: float = 0.5,
) -> dict[str, float]:
    """Measure the recall of a source of proposals.

    The proposal network is trained on one mask for each class in an image, so the annotated masks of a class are united.

    Args:
        source: the source of proposals.
        images: the folder of the images.
        annotations: COCO instances or panoptic JSON; its categories may state whether they are "annotated", that is,
            known in training.
        limit: the number of images to read, from the first on; None for all.
        orientation: whether images are turned as their EXIF orientation says, or used as stored.
        all_counts: is updated with "images" and "masks", the counts of `core.rotation`, and the dropped masks and images by
            reason (`dropped.<reason>` and `dropped.image_<reason>`).
        max_dropped: the largest fraction of the images, or of the masks, that may be dropped for one reason.

    Returns:
        the fractions of `recalls`; "masks" and "proposals", the numbers of both.

    Raises:
        OvsegError: no image or annotated mask or too few can be read, or ids lead nowhere (see `datasets.references`).
    """
    all_counts = Counter() if all_counts is None else all_counts
    examples: dict[str, str] = {}
    best_ious: list[float] = []
    labels: list[str] = []
    proposals = 0
    with TemporaryDirectory() as scratch:
        store = open_coco(annotations, Path(scratch) / f"{annotations.stem}.sqlite")
        annotated = {str(record["name"]): record.get("annotated") for record in store.categories().values()}
        all_counts.update(check_listed_images(annotations, store))
        check_categories(annotations, store)
        gt_source = ground_truth(annotations, Path(scratch), labels=True)
        records = list(islice(store.images(), limit))
        with Progress("proposal recall", len(records), "images") as progress:
            for record in records:
                counts: Counter[str] = Counter(images=0, masks=0)
                dropped: list[BadItem] = []
                try:
                    image = find_image(images, record, orientation, counts)
                    unions = masks_by_label(gt_source, image, dropped=dropped)
                    gt = {label: masks.encode(mask) for label, mask in unions.items()}
                    rles = [item.rle for item in source(image) if isinstance(item, Proposal)]
                    ious = masks.iou_matrix(list(gt.values()), image.height, image.width, rles)
                    best_ious += ious.max(1, initial=0.0).tolist()
                    labels += gt
                    proposals += len(rles)
                    counts.update(images=1, masks=len(gt))
                except BadItem as problem:  # of the image itself
                    dropped.append(BadItem(f"image_{problem.reason}", problem.detail))
                for item in dropped:
                    counts[f"dropped.{item.reason}"] += 1
                    examples.setdefault(item.reason, f"image {record['id']}: {item.detail}")
                progress.add(counts)
                all_counts.update(counts)
    check_totals(f"proposal recall on {annotations}", TOTALS, all_counts, max_dropped, examples.get)
    flags = [annotated[label] for label in labels]
    known = None if all(flag is None for flag in flags) else np.array(flags, bool)
    return recalls(np.array(best_ious), known) | {"masks": float(len(labels)), "proposals": float(proposals)}


def recalls(best_ious: NDArray[np.float64], annotated: NDArray[np.bool_] | None = None) -> dict[str, float]:
    """Compute recalls from the best IoU of each annotated mask.

    Args:
        best_ious: the IoU with the best proposal, float `[N]` in [0, 1].
        annotated: whether the mask's class is known in training, bool `[N]`; None if that is not known.

    Returns:
        "ar", the mean of the recalls at IoU 0.5, 0.55, ... 0.95; "recall_50" and "recall_75"; the same with the suffixes
        "_annotated" and "_not_annotated" over these masks alone. All are in [0, 1].
    """
    groups = {"": np.ones(len(best_ious), bool)}
    if annotated is not None:
        groups |= {"_annotated": annotated, "_not_annotated": ~annotated}
    fractions: dict[str, float] = {}
    for suffix, group in groups.items():
        if group.any():
            at = {f"{iou:.2f}": float((best_ious[group] >= iou - 1e-9).mean()) for iou in IOU_THRESHOLDS}
            fractions |= {f"ar{suffix}": float(np.mean(list(at.values())))}
            fractions |= {f"recall_50{suffix}": at["0.50"], f"recall_75{suffix}": at["0.75"]}
    return fractions
