"""Images with two masks in COCO's formats, and what the tests of sources do with them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ovseg.core import masks
from ovseg.core.errors import BadItem
from ovseg.core.image_records import ImageRecord
from ovseg.proposals import Proposal

W, H = 16, 12
IMAGE = ImageRecord(Path(), 3, "a.jpg", 0, 0, W, H)
LEFT = np.zeros((H, W), bool)
LEFT[2:9, 1:7] = True
RIGHT = np.zeros((H, W), bool)
RIGHT[1:5, 9:15] = True

Row = dict[str, Any]


def rle(mask: masks.MaskArray, form: str = "text") -> Row:
    counts: Any = masks.encode(mask)
    counts = {"text": counts.decode(), "runs": masks.run_lengths(counts)}[form]
    return {"size": list(mask.shape), "counts": counts}


def coco_file(path: Path, annotations: list[Row]) -> Path:
    images = [{"id": 3, "file_name": "a.jpg"}]
    categories = [{"id": 1, "name": "Dog"}, {"id": 2, "name": "grass"}]
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories}), encoding="utf-8"
    )
    return path


def split(items: Iterable[Proposal | BadItem]) -> tuple[list[Proposal], list[str]]:
    """The proposals of a source, and the reasons of what it could not use."""
    items = list(items)
    return [i for i in items if isinstance(i, Proposal)], [i.reason for i in items if isinstance(i, BadItem)]


def pixels(proposal: Proposal) -> masks.MaskArray:
    return masks.decode(proposal.rle, H, W)
