"""Average recall of proposals against true masks: what the proposal network is worth, apart from any names."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from ovseg import masks
from ovseg.datasets.coco import open_coco
from ovseg.errors import BadItem, OvsegError
from ovseg.evaluation.mask_accuracy import open_picture
from ovseg.progress import Progress
from ovseg.proposals import Picture, Proposal, Source
from ovseg.proposals.annotated import ground_truth

LIMITS = np.arange(0.5, 1.0, 0.05)  # of IoU, as COCO's


def measure_recall(source: Source, images: Path, truth: Path, limit: int | None = None) -> dict[str, float]:
    """Recall of a source's proposals. What a network is taught is one mask for each class in sight, so true masks of a
    class are taken together.

    Args:
        source: of proposals.
        images: folder of the pictures.
        truth: COCO instances or panoptic JSON; categories may say whether they are "annotated" (known in training).
        limit: only the first that many pictures.

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
        with Progress("proposal recall", len(records), "pictures") as progress:
            for record in records:
                counts: Counter[str] = Counter(masks=0)
                try:
                    picture = open_picture(images, record)
                    true = _by_class(labelled, picture)
                    found = [item.rle for item in source(picture) if isinstance(item, Proposal)]
                    overlap = masks.overlaps(list(true.values()), picture.height, picture.width, found)
                    best += zip(true, overlap.max(1, initial=0.0).tolist(), strict=True)
                    number += len(found)
                    counts["masks"] += len(true)
                except BadItem as problem:
                    counts[f"dropped.{problem.reason}"] += 1
                progress.add(counts)
    if not best:
        raise OvsegError(f"no mask of {truth} can be read; are its pictures in {images}?")
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


def _by_class(labelled: Source, picture: Picture) -> dict[str, bytes]:
    height, width = picture.height, picture.width
    found: dict[str, masks.Bool] = {}
    for item in labelled(picture):
        if isinstance(item, Proposal) and item.label is not None:
            mask = masks.decode(item.rle, height, width)
            found[item.label] = found[item.label] | mask if item.label in found else mask
    return {label: masks.encode(mask) for label, mask in found.items()}
