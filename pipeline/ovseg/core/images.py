"""Reading images and label maps of any format that Pillow knows; what cannot be read raises `BadItem` with its reason.

What the decoder can give whole is used: metadata that Pillow stumbles over are left out, and a JPEG that lacks only its end
marker is whole. An image with missing pixels is `truncated`.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, TiffImagePlugin

from ovseg.core.errors import BadItem
from ovseg.core.exif import INVERSES, METHODS, TAG, TRANSPOSED, Turn, read_turn
from ovseg.core.image_formats import NOT_DECODED, explain_unidentified, is_cut_off
from ovseg.core.image_repair import repair
from ovseg.core.options import Orientation
from ovseg.core.remote_files import read_range
from ovseg.core.retries import read_patiently

ImageArray = NDArray[np.uint8]
MAX_PIXELS = 175_000_000  # 13,000 x 13,000: a small file with more pixels is a decompression bomb, not a photograph
LOSSY = ("JPEG", "MPO", "WEBP", "AVIF")
SIGNATURE_SIZE = 64  # a shorter file holds no more than the signature of a format
REPAIRABLE = ("not_an_image", "truncated", "undecodable")

T = TypeVar("T")


class ImageHeader(NamedTuple):
    """What is known of an image before its pixels are decoded.

    Attributes:
        width: the width in pixels, after the turn.
        height: the height in pixels, after the turn.
        exif_orientation: the orientation that its metadata state, 1 to 8; 1 turns nothing.
        note: what was odd about the file, which is used all the same; None if nothing was.
    """

    width: int
    height: int
    exif_orientation: int = 1
    note: str | None = None

    @property
    def same_size(self) -> bool:
        """Whether the image has the same size with any orientation."""
        return self.exif_orientation not in TRANSPOSED or self.width == self.height


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


def read_bytes(root: Path, name: str, offset: int = 0, size: int = -1) -> bytes:
    """Read the bytes of one image: a whole file, or a member of a tar file.

    Args:
        root: folder of the file.
        name: path of the file relative to `root`.
        offset: position of the image's first byte in the file.
        size: number of bytes of the image; -1 for all that follow.

    Raises:
        BadItem: `unsafe_path`, `missing`, `unreadable` (see `core.retries`), `zero_bytes`,
            or `truncated` if the file ends before `size` bytes.
    """
    path = safe_path(root, name)
    data = read_patiently(root / name, lambda: read_range(path, offset, size))
    if not data:
        raise BadItem("zero_bytes", f"{root / name} is empty")
    if len(data) < size:
        raise BadItem("truncated", f"{root / name} ends after {len(data):,} of {size:,} bytes")
    return data


def read_header(data: bytes, orientation: Orientation = "exif") -> ImageHeader:
    """Read the size of an image without decoding its pixels.

    Args:
        data: the image file.
        orientation: whether the image is turned as its metadata say ("exif"), or used as it is stored ("raw").

    Raises:
        BadItem: `not_an_image`, `too_large`, `undecodable` or `truncated`.
    """
    return _read(data, partial(_header, orientation))


def decode_image(data: bytes, orientation: Orientation = "exif") -> ImageArray:
    """Decode an image of any mode to uint8 RGB `[H, W, 3]`, with transparency laid on white.

    Args:
        data: the image file.
        orientation: whether the image is turned as its metadata say ("exif"), or used as it is stored ("raw").

    Raises:
        BadItem: `not_an_image`, `too_large`, `undecodable` or `truncated`.
    """
    return _read(data, partial(_pixels, orientation))


def decode_with_header(data: bytes, orientation: Orientation = "exif") -> tuple[ImageArray, ImageHeader]:
    """Decode an image as `decode_image` does, and read its header, as `read_header` does, in one pass."""
    header, pixels = _read(data, lambda image: (_header(orientation, image), _pixels(orientation, image)))
    return pixels, header


def decode_labels(data: bytes, orientation: Orientation = "exif") -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Decode a label map to uint8 or uint16 `[H, W]`: gray values, or the indices of a palette (not its colors).

    Args:
        data: the file of the label map.
        orientation: as for images, and with the same meaning: few label maps have metadata that turn them.

    Raises:
        BadItem: `not_an_image`, `too_large`, `undecodable` or `truncated`; `not_labels` for an image of another mode, or
            with labels outside [0, 65535].
    """
    return _read(data, partial(_labels, orientation))


def _read(data: bytes, read: Callable[[Image.Image], T]) -> T:
    """Open an image and read from it; if Pillow refuses it, once more without what does not concern the pixels."""
    try:
        return _read_once(data, read, {})
    except BadItem as problem:
        repaired = repair(data, MAX_PIXELS) if problem.reason in REPAIRABLE else None
        if repaired is None:
            raise
        try:
            return _read_once(repaired.data, read, repaired.info)
        except BadItem as other:
            raise (other if other.reason not in REPAIRABLE else problem) from None


def _read_once(data: bytes, read: Callable[[Image.Image], T], info: Mapping[str, Any]) -> T:
    with _open(data) as image:
        image.info.update(info)
        try:
            return read(image)
        except BadItem:
            raise
        except Exception as error:  # of a decoder: OSError, SyntaxError, struct.error and others
            reason = "truncated" if is_cut_off(data) or "truncat" in str(error).lower() else "undecodable"
            raise BadItem(reason, f"{image.format}: {error or type(error).__name__}") from None


def _open(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise BadItem("too_large", str(error)) from None
    except Exception:  # also those of Pillow's plug-ins for a damaged header; some texts contain a memory address
        reason = "truncated" if len(data) > SIGNATURE_SIZE and is_cut_off(data) else "not_an_image"
        raise BadItem(reason, explain_unidentified(data)) from None
    if image.width * image.height > MAX_PIXELS:
        raise BadItem("too_large", f"{image.width} x {image.height} pixels; the limit is {MAX_PIXELS:,}")
    if image.format in NOT_DECODED:
        raise BadItem("not_an_image", f"{image.format} is no format of images that are read here")
    return image


def _header(orientation: Orientation, image: Image.Image) -> ImageHeader:
    width, height = image.size
    if image.format == "PNG" and "exif" not in image.info:
        image.load()  # the orientation may come after the pixels
    turn = read_turn(image)
    transposed_by_pillow = isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(TAG) in TRANSPOSED
    if transposed_by_pillow != (orientation == "exif" and turn.value in TRANSPOSED):
        width, height = height, width
    return ImageHeader(width, height, turn.value, turn.problem)


def _pixels(orientation: Orientation, opened: Image.Image) -> ImageArray:
    image = _turned(opened, orientation)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    elif image.mode.startswith("I") or image.mode == "F":  # 16-bit gray, which convert() would clip to 8 bits
        values = np.nan_to_num(np.asarray(image, dtype=np.float64)).clip(min=0)
        image = Image.fromarray((values / max(values.max(), 1) * 255).astype(np.uint8))
    return np.asarray(image.convert("RGB"))


def _labels(orientation: Orientation, opened: Image.Image) -> NDArray[np.uint8] | NDArray[np.uint16]:
    if opened.mode not in ("1", "L", "P") and not opened.mode.startswith("I"):
        raise BadItem("not_labels", f"a label map is gray or has a palette; this image has mode {opened.mode}")
    if opened.format in LOSSY:
        raise BadItem("not_labels", f"a label map in {opened.format} has other numbers than were written; use PNG")
    scale = _gray_scale(opened)
    values = np.asarray(_turned(opened, orientation))
    if values.dtype in (np.uint8, np.bool_):
        return values if scale == 1 and values.dtype == np.uint8 else values.astype(np.uint8) // scale
    if values.min(initial=0) < 0 or values.max(initial=0) > np.iinfo(np.uint16).max:
        raise BadItem(
            "not_labels", f"labels have at most 16 bits; those of this map range from {values.min()} to {values.max()}"
        )
    return values.astype(np.uint16)


def _gray_scale(image: Image.Image) -> int:
    """What Pillow multiplies gray values of 2 or 4 bits by; 1 for other images."""
    arguments = image.tile[0][3] if isinstance(image, ImageFile.ImageFile) and image.tile else ""
    raw_mode = arguments if isinstance(arguments, str) else next(iter(arguments or ()), "")
    return {"L;2": 85, "L;4": 17}.get(str(raw_mode), 1)


def _turned(image: Image.Image, orientation: Orientation) -> Image.Image:
    """The loaded image, turned as `orientation` says."""
    by_pillow = read_turn(image) if isinstance(image, TiffImagePlugin.TiffImageFile) else Turn()
    image.load()
    if by_pillow.value != 1:
        wanted = 1 if orientation == "exif" else INVERSES.get(by_pillow.value, by_pillow.value)
    else:
        wanted = read_turn(image).value if orientation == "exif" else 1
    method = METHODS.get(wanted)
    return image if method is None else image.transpose(method)
