"""One image of the table `index`, whose pixels are decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from ovseg.core import tables
from ovseg.core.errors import BadItem
from ovseg.core.exif import TRANSPOSED
from ovseg.core.images import ImageArray, ImageHeader, decode_image, read_bytes
from ovseg.core.options import Orientation

COLUMNS = ["image_id", "file", "offset", "size", "width", "height", "member", "exif_orientation", "orientation"]
"""The columns of the table `index` that make an image."""
OTHER_ORIENTATION = "other_orientation"
"""Rejection reason of masks that have the size of an image before its EXIF rotation, or after it, but not the one used."""


@dataclass(frozen=True)
class ImageRecord:
    """One row of the table `index`.

    Attributes:
        root: the folder that `file` is relative to.
        image_id: the id of the image in the captions file.
        file: the image file, or the tar file that contains the image.
        offset: the position of the image's first byte in `file`.
        size: the number of bytes of the encoded image; -1 for all of the file.
        width: the width in pixels, as the image is used.
        height: the height in pixels, as the image is used.
        member: the name of the image in that tar file; None for a file of its own.
        exif_orientation: the orientation that its metadata state, 1 to 8.
        orientation: whether it is turned as they say, or used as it is stored.
    """

    root: Path
    image_id: int
    file: str
    offset: int
    size: int
    width: int
    height: int
    member: str | None = None
    exif_orientation: int = 1
    orientation: Orientation = "exif"

    @classmethod
    def of_file(cls, root: Path, file: str, header: ImageHeader, orientation: Orientation, image_id: int = 0) -> Self:
        """Return the record of an image that has a file of its own, without a table `index`.

        Args:
            root: the folder that `file` is relative to.
            file: the image file.
            header: its header, read with the same orientation.
            orientation: whether it is turned as its metadata say, or used as it is stored.
            image_id: the id of the image.
        """
        width, height, exif_orientation, _ = header
        turn = (exif_orientation, orientation)
        return cls(root, image_id, file, 0, -1, width, height, None, *turn)

    @property
    def name(self) -> str:
        """The name of the image itself: of its file, or in its tar file."""
        return self.file if self.member is None else self.member

    @property
    def other_size(self) -> tuple[int, int] | None:
        """Height and width with the other `orientation`, if they are not the same: masks of this size were drawn on it."""
        transposed = self.exif_orientation in TRANSPOSED and self.width != self.height
        return (self.width, self.height) if transposed else None

    def check_size(self, what: str, size: Sequence[int], reason: str = "mask_size") -> None:
        """Check that a mask, a label map or the pixels have the size of this image.

        Args:
            what: what has the size, for the error.
            size: its height and width in pixels.
            reason: the rejection reason.

        Raises:
            BadItem: `other_orientation` if the size is that of the image with the other `orientation`, else `reason`.
        """
        height, width = size
        if (height, width) == (self.height, self.width):
            return
        detail = f"{what} is {width} x {height}, the image {self.name} is {self.width} x {self.height} (width x height)"
        if (height, width) != self.other_size:
            raise BadItem(reason, detail)
        when, other = ("before", "raw") if self.orientation == "exif" else ("after", "exif")
        raise BadItem(
            OTHER_ORIENTATION, f"{detail}: the size {when} its EXIF rotation, which orientation={other} keeps"
        )

    @cached_property
    def pixels(self) -> ImageArray:
        """As `read_pixels`, and kept in memory as long as this record is."""
        return self.read_pixels()

    def read_pixels(self) -> ImageArray:
        """Decode the image, uint8 RGB `[H, W, 3]`.

        Raises:
            BadItem: the file is missing or damaged, or its size is not the one in the index.
        """
        image = decode_image(read_bytes(self.root, self.file, self.offset, self.size), self.orientation)
        height, width = image.shape[:2]
        if (height, width) != (self.height, self.width):
            detail = (
                f"{self.name} is {width} x {height}, but {self.width} x {self.height} was recorded (width x height)"
            )
            turned = (height, width) == self.other_size
            raise BadItem(OTHER_ORIENTATION if turned else "size_changed", detail)
        return image


def read_image_records(part: Path, root: Path) -> Iterator[ImageRecord]:
    """Iterate over the usable images of one part of the table `index`.

    Args:
        part: a Parquet file of the table.
        root: the folder that the index's files are relative to.
    """
    for row in tables.read_part(part, "index", [*COLUMNS, "problem"]).to_pylist():
        if row.pop("problem") is None:
            yield ImageRecord(root=root, **row)
