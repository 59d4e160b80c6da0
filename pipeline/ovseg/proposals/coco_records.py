"""The mask of one COCO record: an annotation, or a result of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ovseg.core import masks
from ovseg.core.errors import BadItem
from ovseg.core.image_records import ImageRecord
from ovseg.datasets.store import Record
from ovseg.proposals import Proposal


def coco_mask(record: Record, image: ImageRecord, names: Mapping[int, str]) -> Proposal | BadItem:
    """Return the mask of a record as a proposal, or the reason why it cannot be used.

    Args:
        record: annotation or result; read are `segmentation`, `score` (1 if absent), `category_id`, `iscrowd` and `isthing`.
        image: image that the mask belongs to.
        names: class name of each category; a mask of another category has no label.
    """
    if record.get("iscrowd") and not isinstance(record.get("isthing"), int):
        return BadItem("crowd", f"annotation {record.get('id')} is a crowd (iscrowd), not one object")
    score = record.get("score", 1.0)
    if not isinstance(score, (int, float)) or not math.isfinite(score):
        return BadItem("score_malformed", f"the score {score!r} is not a number")
    segmentation = record.get("segmentation")
    try:
        size = segmentation.get("size") if isinstance(segmentation, dict) else None
        if isinstance(size, (list, tuple)) and tuple(size) == image.other_size:
            image.check_size("the mask", size)
        rle = masks.from_coco(segmentation, image.height, image.width)
    except BadItem as problem:
        return problem
    return Proposal(rle, float(score), names.get(record.get("category_id", -1)))
