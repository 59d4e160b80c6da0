"""Reading pictures as they are found in the wild: one function, RGB out, or a reason why not."""

from __future__ import annotations

import io
import warnings
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ovseg.errors import BadItem

Pixels = NDArray[np.uint8]
MAX_PIXELS = 200_000_000  # 14,000 x 14,000: beyond that a small file is a decompression bomb, not a photograph


def safe_path(root: Path, name: str) -> Path:
    """`root / name`, refusing names that leave the folder.

    Raises:
        BadItem: `unsafe_path` for an absolute path, a drive or a `..` part.
    """
    parts = PurePosixPath(name.replace("\\", "/"))
    if not name or parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[0] or "\0" in name:
        raise BadItem("unsafe_path", f"file_name {name!r} must stay inside the image folder")
    return root / parts


def read_bytes(root: Path, name: str, offset: int, size: int) -> bytes:
    """The bytes of one picture: `size` bytes at `offset` of a file below `root` (a tar member, or a file as a whole).

    Raises:
        BadItem: `unsafe_path`, `missing` or `zero_bytes`.
    """
    try:
        with safe_path(root, name).open("rb") as stream:
            stream.seek(offset)
            data = stream.read(size)
    except OSError as error:
        raise BadItem("missing", f"{root / name}: {error.strerror or error}") from None
    if not data:
        raise BadItem("zero_bytes", f"{root / name} is empty")
    return data


def read_header(data: bytes) -> tuple[int, int]:
    """Width and height of a picture, as it is seen (EXIF rotation applied), without decoding the pixels.

    Raises:
        BadItem: `not_an_image` or `too_large`.
    """
    with _open(data) as image:
        turned = image.getexif().get(0x0112, 1) >= 5
        return (image.height, image.width) if turned else (image.width, image.height)


def decode_image(data: bytes) -> Pixels:
    """A picture of any mode as uint8 RGB `[H, W, 3]`: EXIF rotation applied, transparency laid on white.

    Raises:
        BadItem: `not_an_image`, `too_large` or `truncated`.
    """
    with _open(data) as image:
        try:
            image = ImageOps.exif_transpose(image)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            elif image.mode.startswith("I") or image.mode == "F":  # 16-bit grey: convert() would clip it
                values = np.asarray(image, dtype=np.float64)
                image = Image.fromarray((values / max(values.max(), 1) * 255).astype(np.uint8))
            return np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise BadItem("truncated", str(error)) from None


def _open(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise BadItem("too_large", str(error)) from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise BadItem("not_an_image", str(error)) from None
    if image.width * image.height > MAX_PIXELS:
        raise BadItem("too_large", f"{image.width} x {image.height} pixels; the limit is {MAX_PIXELS:,}")
    return image
