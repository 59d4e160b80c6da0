"""Reading images as they are found in the wild: one function, RGB out, or a reason why not."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ovseg.core.errors import BadItem

ImageArray = NDArray[np.uint8]
MAX_PIXELS = 175_000_000  # 13,000 x 13,000: beyond that a small file is a decompression bomb, not a photograph
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)  # EXIF's tag, and its values that exchange width and height


def safe_path(root: Path, name: str) -> Path:
    """`root / name`, refusing names that leave the folder.

    Raises:
        BadItem: `unsafe_path` for an absolute path, a drive, a `..` part, no name at all, or one that no file can have.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    inside = path.parts and not path.is_absolute() and ".." not in path.parts and ":" not in path.parts[0]
    if not inside or "\0" in name or any("\ud800" <= letter <= "\udfff" for letter in name):
        raise BadItem("unsafe_path", f"file_name {name!r} must stay inside the image folder")
    return root / path


def read_bytes(root: Path, name: str, offset: int, size: int) -> bytes:
    """The bytes of one image: `size` bytes at `offset` of a file below `root` (a tar member, or a file as a whole).

    Raises:
        BadItem: `unsafe_path`, `missing`, `zero_bytes`, or `truncated` if the file ends before `size` bytes.
    """
    try:
        with safe_path(root, name).open("rb") as stream:
            stream.seek(offset)
            data = stream.read(size)
    except OSError as error:
        raise BadItem("missing", f"{root / name}: {error.strerror or error}") from None
    if not data:
        raise BadItem("zero_bytes", f"{root / name} is empty")
    if len(data) < size:
        raise BadItem("truncated", f"{root / name} ends after {len(data):,} of {size:,} bytes")
    return data


def read_header(data: bytes) -> tuple[int, int]:
    """Width and height of an image, as it is seen (EXIF rotation applied), without decoding the pixels.

    Raises:
        BadItem: `not_an_image`, `too_large` or `truncated`.
    """
    with _open(data) as image:
        width, height = image.size
        with _broken():
            turned = image.format != "TIFF" and image.getexif().get(ORIENTATION) in TURNED  # Pillow turns TIFFs itself
    return (height, width) if turned else (width, height)


def decode_image(data: bytes) -> ImageArray:
    """An image of any mode as uint8 RGB `[H, W, 3]`: EXIF rotation applied, transparency laid on white.

    Raises:
        BadItem: `not_an_image`, `too_large` or `truncated`.
    """
    with _open(data) as opened, _broken():
        image = ImageOps.exif_transpose(opened)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        elif image.mode.startswith("I") or image.mode == "F":  # 16-bit grey: convert() would clip it
            values = np.nan_to_num(np.asarray(image, dtype=np.float64)).clip(min=0)
            image = Image.fromarray((values / max(values.max(), 1) * 255).astype(np.uint8))
        return np.asarray(image.convert("RGB"))


def decode_labels(data: bytes) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """A map of labels `[H, W]`, uint8 or uint16: grey values, or the numbers of a palette and not its colours.

    Raises:
        BadItem: `not_an_image`, `too_large` or `truncated`; `not_labels` for any other kind of image.
    """
    with _open(data) as image:
        if image.mode not in ("L", "P") and not image.mode.startswith("I"):
            raise BadItem("not_labels", f"a map of labels is grey or has a palette; this one is {image.mode}")
        with _broken():
            values = np.asarray(image)
    if values.dtype == np.uint8:
        return values
    if values.min(initial=0) < 0 or values.max(initial=0) > np.iinfo(np.uint16).max:
        raise BadItem("not_labels", f"labels have at most 16 bits; this map goes from {values.min()} to {values.max()}")
    return values.astype(np.uint16)


@contextmanager
def _broken() -> Iterator[None]:
    """Whatever a decoder makes of damaged bytes: Pillow's raise OSError, SyntaxError, struct.error, NotImplementedError..."""
    try:
        yield
    except Exception as error:
        raise BadItem("truncated", f"{type(error).__name__}: {error}") from None


def _open(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise BadItem("too_large", str(error)) from None
    except UnidentifiedImageError:  # its text holds an address in memory, which differs from run to run
        raise BadItem("not_an_image", "no image format that Pillow knows") from None
    except Exception as error:  # what a plug-in makes of a damaged header
        raise BadItem("not_an_image", str(error)) from None
    if image.width * image.height > MAX_PIXELS:
        raise BadItem("too_large", f"{image.width} x {image.height} pixels; the limit is {MAX_PIXELS:,}")
    return image
