"""The orientation of an image: how its stored pixels have to be turned, as its EXIF or XMP metadata say.

Only the entry of the orientation is read. Other entries may be odd (another type or count, an offset outside of the block),
which is frequent and concerns no pixel.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from PIL import Image, TiffImagePlugin

TAG = 0x0112
TRANSPOSED = (5, 6, 7, 8)
"""The orientations that exchange width and height."""
METHODS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes the stored pixels upright, for each orientation that is not 1."""
INVERSES = {6: 8, 8: 6}
"""The orientation whose method undoes that of another; each of the others undoes itself."""
INTEGERS = {1: "B", 3: "H", 4: "L", 6: "b", 8: "h", 9: "l"}  # EXIF's types of whole numbers
METADATA = frozenset({"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"})  # by Pillow's names
XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


class Turn(NamedTuple):
    """What the metadata of an image say about its orientation.

    Attributes:
        value: the orientation, 1 to 8; 1 turns nothing.
        problem: why the metadata state no orientation that can be read; None if they do, or have none.
    """

    value: int = 1
    problem: str | None = None


def read_turn(image: Image.Image) -> Turn:
    """Read the orientation of an opened image; the chunks after the pixels of a PNG are known only once it is loaded."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # Pillow itself turns it, so Pillow's value counts
        return _valid(image.getexif().get(TAG, 1))
    value = problem = None
    if not image.info.keys() & METADATA:
        return Turn()
    try:
        value = exif_orientation(_exif_block(image))
    except ValueError as error:
        problem = str(error)
    if value is not None:
        return _valid(value)
    xmp = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp") or b""
    match = XMP.search(xmp.encode("utf-8", "replace") if isinstance(xmp, str) else xmp)
    return _valid(int(match[1])) if match else Turn(1, problem)


def exif_orientation(exif: bytes) -> int | None:
    """Find the value of the orientation entry in an EXIF block.

    Args:
        exif: the block, with or without the header of its JPEG segment.

    Returns:
        The value; None if the block has no such entry.

    Raises:
        ValueError: the block is damaged before that entry, or the entry is no whole number; the message says how.
    """
    block = re.sub(rb"^(?:Exif\0\0){1,2}", b"", exif)
    if not block:
        return None
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None or block[2:4] not in (b"*\0", b"\0*") or len(block) < 8:
        raise ValueError(f"the EXIF block does not begin with the header of a TIFF, but with {block[:8]!r}")
    (start,) = struct.unpack_from(order + "L", block, 4)
    if start + 2 > len(block):
        raise ValueError(f"the first directory of the EXIF block, at {start}, is outside of its {len(block)} bytes")
    (number,) = struct.unpack_from(order + "H", block, start)
    for i in range(number):
        entry = start + 2 + 12 * i
        if entry + 12 > len(block):
            raise ValueError(f"the EXIF block ends after {i} of the {number} entries of its first directory")
        if struct.unpack_from(order + "H", block, entry) == (TAG,):
            return _integer(block, entry, order)
    return None


def _integer(block: bytes, entry: int, order: str) -> int:
    """The first value of the entry at `entry`."""
    kind, count = struct.unpack_from(order + "HL", block, entry + 2)
    if kind not in INTEGERS or not count:
        raise ValueError(f"the orientation in the EXIF block has type {kind} and count {count}, instead of 3 and 1")
    letter = order + INTEGERS[kind]
    place = entry + 8
    if struct.calcsize(letter) * count > 4:
        (place,) = struct.unpack_from(order + "L", block, place)
    if place + struct.calcsize(letter) > len(block):
        raise ValueError(f"the orientation in the EXIF block is at {place}, outside of its {len(block)} bytes")
    return int(struct.unpack_from(letter, block, place)[0])


def _exif_block(image: Image.Image) -> bytes:
    exif = image.info.get("exif")
    if isinstance(exif, bytes):
        return exif
    profile = image.info.get(
        "Raw profile type exif"
    )  # ImageMagick's way in a PNG: three lines, then hexadecimal digits
    return bytes.fromhex("".join(profile.split("\n")[3:])) if isinstance(profile, str) else b""


def _valid(value: object) -> Turn:
    if isinstance(value, int) and (value == 1 or value in METHODS):
        return Turn(value)
    return Turn(1, f"the orientation in the metadata is {value!r}, which is none of 1 to 8")
