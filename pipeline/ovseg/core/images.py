"""Reading images and label maps of any format that Pillow knows; what cannot be read raises `BadItem` with its reason."""

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
MAX_PIXELS = 175_000_000  # 13,000 x 13,000: a small file with more pixels is a decompression bomb, not a photograph
EXIF_ORIENTATION = 0x0112
TRANSPOSED = (5, 6, 7, 8)  # values of that tag that exchange width and height


def safe_path(root: Path, name: str) -> Path:
    """Return `root / name` if that is a path inside `root`.

    Args:
        root: the folder.
        name: a relative path with slashes or backslashes, as a data set's JSON or an archive names it.

    Raises:
        BadItem: `unsafe_path` if the name is absolute, empty, has a drive or a `..` part, or cannot be a file name.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    inside = path.parts and not path.is_absolute() and ".." not in path.parts and ":" not in path.parts[0]
    if not inside or "\0" in name or any("\ud800" <= letter <= "\udfff" for letter in name):
        raise BadItem("unsafe_path", f"the file name {name!r} must be a relative path inside its folder")
    return root / path


def read_bytes(root: Path, name: str, offset: int, size: int) -> bytes:
    """Read the bytes of one image: a whole file, or a member of a tar file.

    Args:
        root: folder of the file.
        name: path of the file relative to `root`.
        offset: position of the image's first byte in the file.
        size: number of bytes of the image.

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
    """Return width and height of an image in pixels, after EXIF rotation, without decoding the pixels.

    Raises:
        BadItem: `not_an_image`, `too_large` or `truncated`.
    """
    with _open(data) as image:
        width, height = image.size
        with _decoder_errors():
            # Pillow itself rotates TIFFs when it opens them
            transposed = image.format != "TIFF" and image.getexif().get(EXIF_ORIENTATION) in TRANSPOSED
    return (height, width) if transposed else (width, height)


def decode_image(data: bytes) -> ImageArray:
    """Decode an image of any mode to uint8 RGB `[H, W, 3]`, with EXIF rotation applied and transparency laid on white.

    Raises:
        BadItem: `not_an_image`, `too_large` or `truncated`.
    """
    with _open(data) as opened, _decoder_errors():
        image = ImageOps.exif_transpose(opened)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        elif image.mode.startswith("I") or image.mode == "F":  # 16-bit gray, which convert() would clip to 8 bits
            values = np.nan_to_num(np.asarray(image, dtype=np.float64)).clip(min=0)
            image = Image.fromarray((values / max(values.max(), 1) * 255).astype(np.uint8))
        return np.asarray(image.convert("RGB"))


def decode_labels(data: bytes) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Decode a label map to uint8 or uint16 `[H, W]`: gray values, or the indices of a palette (not its colors).

    Raises:
        BadItem: `not_an_image`, `too_large` or `truncated`; `not_labels` for an image of another mode, or with labels
            outside [0, 65535].
    """
    with _open(data) as image:
        if image.mode not in ("L", "P") and not image.mode.startswith("I"):
            raise BadItem("not_labels", f"a label map is gray or has a palette; this image has mode {image.mode}")
        with _decoder_errors():
            values = np.asarray(image)
    if values.dtype == np.uint8:
        return values
    if values.min(initial=0) < 0 or values.max(initial=0) > np.iinfo(np.uint16).max:
        raise BadItem(
            "not_labels", f"labels have at most 16 bits; those of this map range from {values.min()} to {values.max()}"
        )
    return values.astype(np.uint16)


@contextmanager
def _decoder_errors() -> Iterator[None]:
    """Turn any error of a decoder into `truncated`: Pillow's raise OSError, SyntaxError, struct.error and others."""
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
    except UnidentifiedImageError:  # its text contains a memory address, which differs from run to run
        raise BadItem("not_an_image", "no image format that Pillow knows") from None
    except Exception as error:  # raised by a plug-in of Pillow for a damaged header
        raise BadItem("not_an_image", str(error)) from None
    if image.width * image.height > MAX_PIXELS:
        raise BadItem("too_large", f"{image.width} x {image.height} pixels; the limit is {MAX_PIXELS:,}")
    return image
