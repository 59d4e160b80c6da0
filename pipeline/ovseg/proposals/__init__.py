"""Where masks come from: a proposal source is a function from an image to masks with scores.

Proposals are class-agnostic: only annotated masks carry a class name (`Proposal.label`); the classes that a network predicts
for its masks are dropped. `sources.SOURCES` lists all sources by name; to add one, see there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from ovseg.core.errors import BadItem
from ovseg.core.image_records import ImageRecord


class Proposal(NamedTuple):
    """One mask of an image.

    Attributes:
        rle: checked compressed RLE of the binary mask, with at least one foreground pixel; see `masks`.
        score: confidence of the source, in [0, 1]; 1 for annotated masks.
        label: class name of an annotated mask; None for a class-agnostic proposal.
        rings_left_out: number of malformed rings of its polygons that were left out because others are good.
    """

    rle: bytes
    score: float
    label: str | None = None
    rings_left_out: int = 0


Source = Callable[[ImageRecord], Iterator[Proposal | BadItem]]
"""Yields the masks of one image, best score first; a mask that cannot be used is yielded as the `BadItem` with the reason."""
