"""Image files that Pillow refuses although their pixels are whole, rewritten so that it reads them.

What is around the pixels is left out: texts, color profiles, comments, damaged segments. A file with missing pixels is not
repaired; its pixels are never made up.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from PIL import Image

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by color type
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
RESTART = re.compile(rb"\xff([\xd0-\xd7])")
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # neither a stuffed byte nor a restart marker
START_OF_FRAME = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
NO_LENGTH = frozenset({0x01, *range(0xD0, 0xDA)})
EXIF_HEADER, XMP_HEADER = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
APP_SIZES = {0xE0: 14, 0xEE: 12}  # of the segments that say how colors are stored: JFIF's and Adobe's
PADDINGS = ((0, 0), (60, 5), (107, 183), (149, 29), (194, 101), (248, 211))
"""First byte and step of the bytes that stand for lost ones."""
AVIF_EXIF = re.compile(rb"(infe\x02[\0-\xff]{7})Exif")
TIFF_PIXEL_TAGS = frozenset(
    {
        254,
        256,
        257,
        258,
        259,
        262,
        266,
        273,
        274,
        277,
        278,
        279,
        284,
        292,
        293,
        317,
        320,
        322,
        323,
        324,
        325,
        332,
        338,
        339,
    }
    | {347, 512, 513, 514, 519, 520, 521, 529, 530, 532}
)


class Repaired(NamedTuple):
    """A rewritten image file.

    Attributes:
        data: the file.
        info: metadata of the original that say how its pixels are turned, by the names of Pillow's `Image.info`.
    """

    data: bytes
    info: dict[str, Any]


def repair(data: bytes, max_pixels: int) -> Repaired | None:
    """Rewrite an image file that Pillow refuses.

    Args:
        data: the file.
        max_pixels: the largest number of pixels of an image that may be decoded.

    Returns:
        The rewritten file; None if pixels are missing, or nothing about the file can be repaired.
    """
    if data[:2] == b"\xff\xd8":
        return _repair_jpeg(data)
    if data[:8] == PNG_SIGNATURE:
        return _repair_png(data, max_pixels)
    if data[:4] in (b"II*\0", b"MM\0*"):
        return _repair_tiff(data)
    if data[4:8] == b"ftyp" and AVIF_EXIF.search(data):
        return Repaired(AVIF_EXIF.sub(rb"\1none", data), {"exif": b"unread"})
    return None


class _Segment(NamedTuple):
    """One segment of a JPEG.

    Attributes:
        marker: second byte of its marker.
        body: what follows its length; empty for a marker without one.
        pixels: the compressed pixels that follow the head of a scan; empty for other segments.
    """

    marker: int
    body: bytes
    pixels: bytes = b""

    def __bytes__(self) -> bytes:
        return b"\xff" + bytes([self.marker]) + (len(self.body) + 2).to_bytes(2, "big") + self.body + self.pixels


def _repair_jpeg(data: bytes) -> Repaired | None:
    segments = list(_jpeg_segments(data))
    needed = (part for part in segments if part.marker not in NO_LENGTH and not _is_beside_the_pixels(part))
    clean = b"\xff\xd8" + b"".join(map(bytes, needed))
    scans = [part for part in segments if part.marker == START_OF_SCAN]
    if not scans:
        return None
    if segments[-1].marker != END_OF_IMAGE:
        clean = clean.rstrip(b"\xff")
        if not _all_coefficients(segments) or not _all_pixels(clean, scans[-1]):
            return None
    return Repaired(clean + b"\xff\xd9", _jpeg_metadata(segments))


def _jpeg_segments(data: bytes) -> Iterator[_Segment]:
    """The complete segments up to the end marker; only the pixels of the last one may be cut off."""
    position = 2
    while found := MARKER.search(data, position):
        marker, start = data[found.end() - 1], found.end()
        position = start
        if marker in NO_LENGTH:
            yield _Segment(marker, b"")
            if marker == END_OF_IMAGE:
                return
            continue
        position += int.from_bytes(data[start : start + 2], "big")
        if position < start + 2 or position > len(data):
            return
        end = position
        if marker == START_OF_SCAN:
            following = MARKER.search(data, position)
            end = following.start() if following else len(data)
        yield _Segment(marker, data[start + 2 : position], data[position:end])
        position = end


def _is_beside_the_pixels(segment: _Segment) -> bool:
    """Whether a segment can be left out: a comment, or one of an application that says nothing about colors."""
    is_of_application = 0xE0 <= segment.marker <= 0xEF or segment.marker == 0xFE
    return is_of_application and len(segment.body) < APP_SIZES.get(segment.marker, 1 << 16)


def _jpeg_metadata(segments: list[_Segment]) -> dict[str, Any]:
    exif = [part.body for part in segments if part.marker == 0xE1 and part.body.startswith(EXIF_HEADER)]
    xmp = [part.body for part in segments if part.marker == 0xE1 and part.body.startswith(XMP_HEADER)]
    whole = b"".join(body.removeprefix(EXIF_HEADER) for body in exif)
    return ({"exif": EXIF_HEADER + whole} if exif else {}) | ({"xmp": xmp[-1]} if xmp else {})


def _all_coefficients(segments: list[_Segment]) -> bool:
    """Whether the scans have every coefficient of every component down to its last bit."""
    stored: set[tuple[int, int]] = set()
    components = b""
    for marker, body, _ in segments:
        if marker in START_OF_FRAME:
            components = body[6::3]
        elif marker == START_OF_SCAN and len(body) == 2 * body[0] + 4 and not body[-1] & 15:  # down to bit 0
            numbers = range(body[-3], body[-2] + 1)
            stored |= {(component, number) for component in body[1:-3:2] for number in numbers}
    return bool(components) and all((component, number) in stored for component in components for number in range(64))


def _all_pixels(data: bytes, last: _Segment) -> bool:
    """Whether a JPEG without its end marker has all its pixels: then any bytes after its own change nothing.

    Args:
        data: the JPEG.
        last: the head of its last scan, with its compressed pixels.
    """
    restarts = RESTART.findall(last.pixels)
    following = restarts[-1][0] - 0xD0 + 1 if restarts else 0
    decoded = set()
    for first, step in PADDINGS:
        lost = bytes((first + step * i) % 251 for i in range(40))  # never 0xFF
        padding = b"".join(lost + bytes((0xFF, 0xD0 + (following + i) % 8)) for i in range(16))
        try:
            with Image.open(io.BytesIO(data + padding + b"\xff\xd9")) as image:
                decoded.add(image.tobytes())
        except Exception:  # any: the bytes were read as pixels, and made no sense
            return False
    return len(decoded) == 1


def _repair_png(data: bytes, max_pixels: int) -> Repaired | None:
    kept: dict[bytes, bytes] = {}
    pixels = bytearray()
    info: dict[str, Any] = {}
    for name, body, intact in _png_chunks(data):
        if name == b"IDAT":
            pixels += body
        elif name in (b"IHDR", b"PLTE", b"tRNS") and intact:
            kept.setdefault(name, body)
        elif name == b"eXIf" and intact:
            info["exif"] = b"Exif\0\0" + body
        elif name == b"iTXt" and body.startswith(b"XML:com.adobe.xmp\0\0"):
            info["xmp"] = body
        elif name == b"zTXt" and body.startswith(b"Raw profile type exif\0"):
            info["Raw profile type exif"] = _inflate(body[23:], 1 << 22).decode("latin-1")
    header = kept.get(b"IHDR", b"")
    size = _png_size(header, max_pixels)
    raw = _inflate(bytes(pixels), size) if size else b""
    if not size or len(raw) < size:
        return None
    if len(kept.get(b"tRNS", b"")) < {0: 2, 2: 6}.get(header[9], 0):
        kept.pop(b"tRNS", None)
    order: tuple[bytes, ...] = (b"IHDR", b"PLTE", b"tRNS")
    chunks = [(name, kept[name]) for name in order if name in kept]
    chunks += [(b"IDAT", zlib.compress(raw, 1)), (b"IEND", b"")]
    written = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    return Repaired(PNG_SIGNATURE + b"".join(written), info)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Name and body of each chunk, and whether its checksum is right; the last one may be cut off."""
    position = 8
    while position + 8 <= len(data):
        length, name = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        if not name.isalpha():
            return
        body, end = data[position + 8 : position + 8 + length], position + 12 + length
        yield name, body, zlib.crc32(name + body).to_bytes(4, "big") == data[end - 4 : end]
        position = end


def _png_size(header: bytes, max_pixels: int) -> int:
    """The number of bytes of the pixels before compression; 0 for a header that makes no sense."""
    if len(header) != 13:
        return 0
    width, height, depth, color, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    if color not in PNG_CHANNELS or not 0 < width * height <= max_pixels:
        return 0
    bits = PNG_CHANNELS[color] * depth
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    sizes = ((-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes)
    return sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if columns > 0 and rows > 0)


def _inflate(data: bytes, size: int) -> bytes:
    """The first `size` bytes of a zlib stream, or as many as there are."""
    try:
        return zlib.decompressobj().decompress(data, size)
    except zlib.error:
        return b""


def _repair_tiff(data: bytes) -> Repaired | None:
    """Hide the tags that do not concern the pixels: a tag of the unknown type 0 is skipped by all readers."""
    order = "<" if data[:2] == b"II" else ">"
    changed = bytearray(data)
    try:
        (start,) = struct.unpack_from(order + "L", data, 4)
        (number,) = struct.unpack_from(order + "H", data, start)
        for entry in range(start + 2, start + 2 + 12 * number, 12):
            (tag,) = struct.unpack_from(order + "H", data, entry)
            if tag not in TIFF_PIXEL_TAGS:
                struct.pack_into(order + "H", changed, entry + 2, 0)
    except struct.error:
        return None
    return Repaired(bytes(changed), {})
