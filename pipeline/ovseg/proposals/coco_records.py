"""The mask of one COCO record: an annotation, or a result of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ovseg.core import masks
from ovseg.core.errors import BadItem
from ovseg.core.image_records import ImageRecord
from ovseg.core.polygons import read_number
from ovseg.datasets.references import UNKNOWN_CATEGORY
from ovseg.datasets.store import Record
from ovseg.proposals import Proposal


def coco_mask(record: Record, image: ImageRecord, names: Mapping[int, str] | None) -> Proposal | BadItem:
    """Return the mask of a record as a proposal, or the reason why it cannot be used.

    Args:
        record: annotation or result; read are `segmentation`, `score` (1 if absent), `category_id`, `iscrowd` and `isthing`.
        image: image that the mask belongs to.
        names: class name of each category, of which the record must have one; None for a class-agnostic proposal.
    """
    if record.get("iscrowd") and not isinstance(record.get("isthing"), int):
        return BadItem("crowd", f"annotation {record.get('id')} is a crowd (iscrowd), not one object")
    score = read_number(record.get("score", 1.0))
    if score is None or not math.isfinite(score):
        return BadItem("score_malformed", f"the score {record.get('score')!r} is not a finite number")
    segmentation = record.get("segmentation")
    try:
        size = segmentation.get("size") if isinstance(segmentation, dict) else None
        if isinstance(size, (list, tuple)) and tuple(size) == image.other_size:
            image.check_size("the mask", size)
        rle, rings_left_out = masks.read_segmentation(segmentation, image.height, image.width)
        label = None if names is None else category_name(record, f"annotation {record.get('id')}", names)
    except BadItem as problem:
        return problem
    return Proposal(rle, score, label, rings_left_out)


def category_name(record: Record, what: str, names: Mapping[int, str]) -> str:
    """Return the class name of an annotation or segment.

    Args:
        record: read is `category_id`.
        what: what the record is, for the error.
        names: class name of each category.

    Raises:
        BadItem: `unknown_category` if it has none of these categories.
    """
    category = record.get("category_id")
    if not isinstance(category, int) or category not in names:
        raise BadItem(UNKNOWN_CATEGORY, f"{what} has the category {category!r}, which is not in the list of categories")
    return names[category]
