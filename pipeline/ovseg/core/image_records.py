"""One image of the table `index`, whose pixels are decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ovseg.core import tables
from ovseg.core.errors import BadItem
from ovseg.core.images import ImageArray, decode_image, read_bytes

COLUMNS = ["image_id", "file", "offset", "size", "width", "height", "problem"]


@dataclass(frozen=True)
class ImageRecord:
    """One row of the table `index`.

    Attributes:
        root: the folder that `file` is relative to.
        image_id: the id of the image in the captions file.
        file: the image file, or the tar file that contains the image.
        offset: the position of the image's first byte in `file`.
        size: the number of bytes of the encoded image.
        width: the width in pixels, after EXIF rotation.
        height: the height in pixels, after EXIF rotation.
    """

    root: Path
    image_id: int
    file: str
    offset: int
    size: int
    width: int
    height: int

    @cached_property
    def pixels(self) -> ImageArray:
        """The decoded image, uint8 RGB `[H, W, 3]`.

        Raises:
            BadItem: the file is missing or damaged, or its size is not the one in the index.
        """
        image = decode_image(read_bytes(self.root, self.file, self.offset, self.size))
        if image.shape[:2] != (self.height, self.width):
            detail = f"{self.file} is {image.shape[1]} x {image.shape[0]}, the index says {self.width} x {self.height}"
            raise BadItem("size_changed", detail)
        return image


def read_image_records(part: Path, root: Path) -> Iterator[ImageRecord]:
    """Iterate over the usable images of one part of the table `index`.

    Args:
        part: a Parquet file of the table.
        root: the folder that the index's files are relative to.
    """
    for row in tables.read_part(part, "index", COLUMNS).to_pylist():
        if row.pop("problem") is None:
            yield ImageRecord(root=root, **row)
