"""Where masks come from. A source is a function (picture) -> masks with scores; `SOURCES` names them.

Masks are class-agnostic proposals: what a source knows of classes is dropped, but for annotated masks (`label`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from ovseg.errors import BadItem
from ovseg.images import Pixels, decode_image, read_bytes


class Proposal(NamedTuple):
    """One mask of a picture.

    Attributes:
        rle: compressed COCO counts of the binary mask; at least one pixel is foreground.
        score: the source's confidence in [0, 1].
        label: class name of an annotated mask, None for a class-agnostic proposal.
    """

    rle: bytes
    score: float
    label: str | None = None


@dataclass(frozen=True)
class Picture:
    """One row of the index, with its pixels read when they are asked for."""

    root: Path
    image_id: int
    file: str
    offset: int
    size: int
    width: int
    height: int

    @cached_property
    def pixels(self) -> Pixels:
        """uint8 RGB `[H, W, 3]`.

        Raises:
            BadItem: if the file is gone, broken, or not as large as the index says.
        """
        image = decode_image(read_bytes(self.root, self.file, self.offset, self.size))
        if image.shape[:2] != (self.height, self.width):
            raise BadItem("size_changed", f"{self.file} is {image.shape[1]} x {image.shape[0]}, the index says "
                                          f"{self.width} x {self.height}")  # fmt: skip
        return image


Source = Callable[[Picture], Iterator[Proposal | BadItem]]
"""Masks of one picture, best first. A mask that cannot be used comes as the BadItem that says why."""
