"""The image formats that are read: their suffixes, and what a file is that Pillow cannot read."""

from __future__ import annotations

import io
import struct
from functools import cache

from PIL import Image, ImageFile, features

NOT_DECODED = frozenset(
    {"EPS", "MPEG"}
)  # a program for a printer, and a film; formats that Pillow only names are stubs
FOREIGN = (
    (0, rb"version https://git-lfs", "a pointer of Git LFS instead of the file; run `git lfs pull`"),
    (0, rb"<svg", "a drawing in SVG"),
    (0, rb"<", "a page of HTML or XML"),
    (0, rb"{", "text in JSON"),
    (0, rb"%PDF", "a PDF document"),
    (0, rb"%!PS", "a drawing in PostScript"),
    (0, rb"PK", "a zip archive"),
    (0, b"\x1f\x8b", "a file compressed by gzip"),
    (0, b"\xff\x0a", "an image in JPEG XL"),
    (4, b"JXL ", "an image in JPEG XL"),
    (4, b"ftyphei", "an image in HEIC"),
    (4, b"ftyphev", "an image in HEIC"),
    (4, b"ftypmif1", "an image in HEIF"),
    (4, b"ftypcrx", "a raw photo of a camera"),
    (4, b"ftypavif", "an image in AVIF"),
    (4, b"ftyp", "a film"),
    (0, b"FUJIFILMCCD-RAW", "a raw photo of a camera"),
    (0, b"RIFF", "a film or sound in RIFF"),
    (0, b"\x1aE\xdf\xa3", "a film"),
)
"""Position and bytes of the signatures of files that are taken for images, and what they are; the first that fits counts."""


@cache
def image_suffixes() -> frozenset[str]:
    """The suffixes, in lower case and with the dot, of the formats that Pillow can decode on this machine."""
    Image.init()
    decoders = {name: factory for name, (factory, _) in Image.OPEN.items() if name not in NOT_DECODED}
    formats = {
        name
        for name, factory in decoders.items()
        if not (isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile))
        and (name not in ("AVIF", "WEBP") or features.check(name.lower()))
    }
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats)


def describe_suffixes() -> str:
    """Name the best known suffixes, and the number of all others."""
    known = [suffix for suffix in (".jpg", ".jpeg", ".png", ".webp", ".avif", ".tif") if suffix in image_suffixes()]
    return f"{', '.join(known)} and {len(image_suffixes()) - len(known)} others"


def explain_unidentified(data: bytes) -> str:
    """Say why Pillow does not open a file: what the format's own reader refuses, or what the file is instead."""
    Image.init()
    for name in Image.ID:
        factory, accept = Image.OPEN[name]
        try:
            accepted = accept is not None and accept(data[:16])
            if isinstance(accepted, str):
                return f"{name}: {accepted}"
            if accepted:
                factory(io.BytesIO(data), "")
        except Exception as error:  # any: a damaged header
            if accepted:
                early = isinstance(error, (struct.error, IndexError)) or isinstance(
                    error.__cause__, (struct.error, IndexError)
                )
                return f"{name}: {'the header ends early' if early else error}"
    start = data[:256].lstrip()
    for position, signature, what in FOREIGN:
        if (data if position else start)[position:].startswith(signature):
            return f"Pillow does not read it here: it is {what}"
    if not data.strip(b"\0"):
        return f"the file consists of {len(data)} zeros"
    return f"no format that Pillow knows begins with {data[:24]!r}"


def is_cut_off(data: bytes) -> bool:
    """Whether a file of a known container ends before its end mark or its stated length."""
    if data[:3] == b"\xff\xd8\xff":
        return b"\xff\xd9" not in data[-4096:]
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return b"IEND" not in data[-4096:]
    if data[:4] == b"RIFF":
        return len(data) < int.from_bytes(data[4:8], "little") + 8
    if data[4:8] == b"ftyp":
        end, length = 0, 8
        while end + 8 <= len(data) and length >= 8:  # boxes that begin with their length
            length = int.from_bytes(data[end : end + 4], "big")
            end += length
        return end > len(data)
    return data[:4] == b"GIF8" and not data.endswith(b";")
