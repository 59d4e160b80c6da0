"""Reading images: every mode becomes RGB with EXIF rotation applied, and each file that is no image has a reason."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from ovseg.core.errors import BadItem
from ovseg.core.images import ImageArray, decode_image, decode_labels, read_bytes, read_header, safe_path

W, H = 9, 5
PIXELS: ImageArray = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "TGA", "ICO", "DDS", "JPEG2000", "PCX", "SGI")


def saved(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def png(width: int, height: int) -> bytes:
    """A PNG whose header states that size, with hardly any data."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def reason_of(data: bytes) -> str:
    with pytest.raises(BadItem) as caught:
        decode_image(data)
    return caught.value.reason


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "YCbCr", "HSV", "LAB"])
def test_any_mode_becomes_rgb(mode: str) -> None:
    """The result is uint8 RGB of the same size, with Pillow's colors."""
    image = Image.fromarray(PIXELS).convert("L" if mode == "L" else "RGB")
    if mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        converted = ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
        assert converted is not None
        image = converted
    else:
        image = image.convert(mode)
    data = saved(image, "TIFF") if mode != "HSV" else saved(image.convert("RGB"))
    pixels = decode_image(data)
    assert pixels.shape == (H, W, 3) and pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    assert read_header(data)[:2] == (W, H)


def test_a_palette_gives_its_colours() -> None:
    image = Image.fromarray(PIXELS).quantize(16)
    assert np.array_equal(decode_image(saved(image)), np.asarray(image.convert("RGB")))
    assert np.array_equal(decode_labels(saved(image)), np.asarray(image))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    """Transparent pixels are white, in every way that a format stores transparency; opaque pixels keep their color."""
    alpha = np.zeros((H, W), np.uint8)
    alpha[:, W // 2 :] = 255
    if mode in ("RGBA", "LA"):
        image = Image.fromarray(np.dstack([PIXELS, alpha])).convert(mode)
        data = saved(image)
    else:
        colors = np.where(alpha[..., None] > 0, np.uint8(200), np.uint8(7)).repeat(3, axis=2)
        image = Image.fromarray(colors)
        image = image.quantize(2) if mode == "P" else image
        data = saved(image, transparency=int(np.asarray(image)[0, 0]) if mode == "P" else (7, 7, 7))
    pixels = decode_image(data)
    assert (pixels[:, : W // 2] == 255).all()
    assert (pixels[:, W // 2 :] != 255).any()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_rotation_is_applied(orientation: int, format: str) -> None:
    """For all eight EXIF orientations the pixels are those that a viewer shows, and the header agrees with them."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"exif": exif} | ({"lossless": True} if format == "WEBP" else {})
    data = saved(Image.fromarray(PIXELS), format, **options)
    pixels = decode_image(data)
    stored = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    shown = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    by_hand = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(stored),
    }[orientation]
    if format != "TIFF":  # Pillow itself rotates a TIFF when it opens it
        assert np.array_equal(pixels, by_hand)
    assert np.array_equal(pixels, shown)
    assert read_header(data)[:2] == (pixels.shape[1], pixels.shape[0])


@pytest.mark.parametrize("value", [0, 9, 99])
def test_an_orientation_that_does_not_exist_rotates_nothing(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    data = saved(Image.fromarray(PIXELS), "JPEG", exif=exif)
    assert read_header(data)[:2] == (W, H) == decode_image(data).shape[1::-1]


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_sixteen_bits_are_scaled_and_not_clipped(mode: str) -> None:
    """16-bit gray keeps its gradient; Pillow's own conversion would make nearly all of it white."""
    ramp = np.linspace(0, 60000, W * H).reshape(H, W)
    types: dict[str, Any] = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
    pixels = decode_image(saved(Image.fromarray(ramp.astype(types[mode])), "TIFF"))
    grey = pixels[..., 0].astype(int).ravel()
    assert grey[0] == 0 and grey[-1] == 255 and (np.diff(grey) >= 0).all() and len(set(grey.tolist())) > 40


def test_floats_that_are_no_numbers_are_black() -> None:
    values = np.array([[np.nan, -5.0, 0.0, 2.0]], np.float32)
    assert decode_image(saved(Image.fromarray(values), "TIFF"))[0, :, 0].tolist() == [0, 0, 0, 255]


def test_one_pixel_is_an_image() -> None:
    data = saved(Image.new("RGB", (1, 1), (10, 20, 30)))
    assert decode_image(data).tolist() == [[[10, 20, 30]]] and read_header(data)[:2] == (1, 1)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_image_has_that_reason(format: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = saved(Image.fromarray(noise), format)
    assert reason_of(whole[: len(whole) // 2]) in ("truncated", "not_an_image")


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 100, b"<html>404</html>", b"\xff\xd8\xff", b"GIF89a", b"\x89PNG\r\n\x1a\n"]
)
def test_a_file_that_is_not_an_image_has_that_reason(data: bytes) -> None:
    assert reason_of(data) == "not_an_image"
    with pytest.raises(BadItem, match="not_an_image"):
        read_header(data)


@pytest.mark.parametrize("size", [(14_000, 14_000), (100_000, 100_000), (2**31 - 1, 1)])
def test_a_bomb_is_refused_before_it_is_decoded(size: tuple[int, int]) -> None:
    """A small file that would take gigabytes is rejected because of its header."""
    data = png(*size)
    assert reason_of(data) in ("too_large", "not_an_image")
    with pytest.raises(BadItem, match=r"too_large|not_an_image"):
        read_header(data)


def test_a_large_photograph_is_no_bomb() -> None:
    assert read_header(saved(Image.new("1", (12_000, 9_000)), "BMP"))[:2] == (12_000, 9_000)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format", FORMATS)
def test_damaged_bytes_never_crash(format: str) -> None:
    """Flipped and missing bytes give an image or a BadItem, never another exception; the header agrees with the pixels."""
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif} if format in ("JPEG", "PNG", "WEBP", "TIFF") else {}
    whole = saved(Image.fromarray(PIXELS), format, **options)
    good = 0
    for trial in range(300):
        data = bytearray(whole[: int(rng.integers(1, len(whole))) if trial % 5 == 0 else None])
        for _ in range(int(rng.integers(1, 6))):
            data[int(rng.integers(0, min(len(data), 300)))] = int(rng.integers(0, 256))
        try:
            size = read_header(bytes(data))
            pixels = decode_image(bytes(data))
        except BadItem:
            continue
        good += 1
        assert pixels.dtype == np.uint8 and pixels.shape[2] == 3
        assert pixels.shape[1::-1] == size[:2]
    assert good < 300


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "./",
        "..",
        "../a.jpg",
        "a/../../b.jpg",
        "/etc/passwd",
        "C:/a.jpg",
        "\\\\host\\a.jpg",
        "..\\a.jpg",
        "a\0.jpg",
        "\ud83d.jpg",
    ],
)
def test_a_name_outside_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    """Absolute, with `..`, with a drive, empty, or impossible: rejected before any file is opened."""
    for attempt in (lambda: safe_path(tmp_path, name), lambda: read_bytes(tmp_path, name, 0, 10)):
        with pytest.raises(BadItem, match="unsafe_path"):
            attempt()


def test_names_inside_the_folder_are_kept(tmp_path: Path) -> None:
    assert safe_path(tmp_path, "a/b c.jpg") == tmp_path / "a" / "b c.jpg"
    assert safe_path(tmp_path, "./a\\b.jpg") == tmp_path / "a" / "b.jpg"
    assert safe_path(tmp_path, "ein bär 😀.jpg") == tmp_path / "ein bär 😀.jpg"


def test_bytes_that_cannot_be_read_have_a_reason(tmp_path: Path) -> None:
    """A missing file, a folder, an empty and a short file; and a part of a tar file is read from its position."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "shard.tar").write_bytes(b"0123456789")
    cases = {"missing": ["gone.jpg", "folder", "a" * 300], "zero_bytes": ["empty.jpg"], "truncated": ["shard.tar"]}
    for reason, names in cases.items():
        for name in names:
            with pytest.raises(BadItem) as caught:
                read_bytes(tmp_path, name, 0, 11)
            assert caught.value.reason == reason
    assert read_bytes(tmp_path, "shard.tar", 3, 4) == b"3456"


def test_labels_are_numbers_and_never_colors() -> None:
    """A label map in color is rejected."""
    grey = np.arange(W * H, dtype=np.uint8).reshape(H, W)
    assert np.array_equal(decode_labels(saved(Image.fromarray(grey))), grey)
    with pytest.raises(BadItem, match="not_labels"):
        decode_labels(saved(Image.fromarray(PIXELS)))
