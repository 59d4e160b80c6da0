"""Where masks come from. A source is a function (image) -> masks with scores; `SOURCES` names them.

Masks are class-agnostic proposals: what a source knows of classes is dropped, but for annotated masks (`label`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from ovseg.core.errors import BadItem
from ovseg.core.image_records import ImageRecord


class Proposal(NamedTuple):
    """One mask of an image.

    Attributes:
        rle: compressed COCO counts of the binary mask; at least one pixel is foreground.
        score: the source's confidence in [0, 1].
        label: class name of an annotated mask, None for a class-agnostic proposal.
    """

    rle: bytes
    score: float
    label: str | None = None


Source = Callable[[ImageRecord], Iterator[Proposal | BadItem]]
"""Masks of one image, best first. A mask that cannot be used comes as the BadItem that says why."""
