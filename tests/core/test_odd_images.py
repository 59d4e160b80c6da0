"""Images that decoders refuse although their pixels are whole: odd metadata, lost end marks, large texts and profiles."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features
from scipy import ndimage

from ovseg.core.errors import BadItem
from ovseg.core.exif import METHODS, exif_orientation
from ovseg.core.images import ImageArray, decode_image, decode_labels, read_header

W, H = 44, 28
SMOOTH: ImageArray = ndimage.zoom(np.random.default_rng(0).integers(0, 256, (4, 6, 3)), (7, 8, 1), order=1).astype(
    np.uint8
)
SMOOTH = SMOOTH[:H, :W]
FORMATS = [name for name in ("JPEG", "PNG", "WEBP", "AVIF") if name in ("JPEG", "PNG") or features.check(name.lower())]
MEGABYTES = b"words " * 400_000


def saved(format: str, pixels: ImageArray = SMOOTH, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format, **options)
    return stream.getvalue()


def entry(tag: int, kind: int, count: int, value: bytes) -> bytes:
    return struct.pack("<HHL", tag, kind, count) + value.ljust(4, b"\0")


def exif_block(*entries: bytes, number: int | None = None, start: int = 8) -> bytes:
    head = b"Exif\0\0II*\0" + struct.pack("<LH", start, len(entries) if number is None else number)
    return head + b"".join(entries) + bytes(4)


def orientation_entry(value: int) -> bytes:
    return entry(0x0112, 3, 1, struct.pack("<H", value))


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def reason_of(data: bytes) -> str:
    with pytest.raises(BadItem) as caught:
        decode_image(data)
    return caught.value.reason


ODD_BESIDE = {
    "an offset outside": entry(0x010F, 2, 50, struct.pack("<L", 99_999)),
    "a count of billions": entry(0x010F, 2, 2**31, struct.pack("<L", 30)),
    "a type that does not exist": entry(0x0110, 99, 1, b"ab"),
    "text for a number": entry(0x0100, 2, 4, b"abc\0"),
    "nothing at all": entry(0x010E, 5, 0, b""),
}


@pytest.mark.parametrize("odd", ODD_BESIDE.values(), ids=ODD_BESIDE.keys())
@pytest.mark.parametrize("value", [1, 6])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_an_odd_entry_beside_the_orientation_changes_nothing(format: str, value: int, odd: bytes) -> None:
    """The orientation is read past entries of another type or count, and with broken offsets, before and after it."""
    after = entry(0x8769, 4, 1, struct.pack("<L", 2**31))  # where the block's second directory is said to be
    data = saved(format, exif=exif_block(odd, orientation_entry(value), after))
    header, pixels = read_header(data), decode_image(data)
    assert header.exif_orientation == value and header.note is None
    assert pixels.shape[1::-1] == header[:2] == ((H, W) if value in (6, 8) else (W, H))
    assert np.array_equal(decode_image(data, "raw"), decode_image(saved(format)))


@pytest.mark.parametrize(
    "exif",
    [
        exif_block(entry(0x0112, 2, 2, b"6\0")),
        exif_block(entry(0x0112, 3, 0, b"")),
        exif_block(entry(0x0112, 3, 9, struct.pack("<L", 70_000))),
        exif_block(orientation_entry(77)),
        exif_block(entry(0x010F, 2, 1, b"a"), number=500),
        exif_block(orientation_entry(6), start=70_000),
        b"Exif\0\0no TIFF header",
    ],
)
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_an_orientation_that_cannot_be_read_turns_nothing_and_is_noted(format: str, exif: bytes) -> None:
    data = saved(format, exif=exif)
    header = read_header(data)
    assert header[:3] == (W, H, 1) and header.note
    assert np.array_equal(decode_image(data), decode_image(saved(format)))


@given(st.binary(max_size=80), st.sampled_from([b"", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"]))
def test_any_exif_block_gives_an_orientation_or_says_why_not(noise: bytes, head: bytes) -> None:
    try:
        value: object = exif_orientation(b"Exif\0\0" + head + noise)
    except ValueError as error:
        value = None if str(error) else "no reason"
    assert value is None or isinstance(value, int)


@given(st.binary(min_size=1, max_size=60), st.sampled_from(["JPEG", "PNG", "WEBP"]))
@settings(max_examples=60, deadline=None)
def test_no_exif_block_costs_an_image(noise: bytes, format: str) -> None:
    """Whatever the block holds, the pixels are those of the image without it, but turned."""
    data = saved(format, exif=b"Exif\0\0II*\0\x08\0\0\0" + noise)
    expected = decode_image(saved(format))
    method = METHODS.get(read_header(data).exif_orientation)
    turned = expected if method is None else np.asarray(Image.fromarray(expected).transpose(method))
    assert np.array_equal(decode_image(data), turned)


@pytest.mark.skipif("AVIF" not in FORMATS, reason="this Pillow reads no AVIF")
def test_an_odd_exif_block_costs_no_avif() -> None:
    data = saved("AVIF", exif=exif_block(entry(0x010F, 2, 4, b"abc\0")))
    odd = data.replace(b"II*\0", b"none")
    header = read_header(odd)
    assert odd != data and header[:3] == (W, H, 1) and header.note
    assert np.array_equal(decode_image(odd), decode_image(data))


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("format", [*FORMATS, "TIFF"])
def test_raw_pixels_are_those_that_are_stored(format: str, value: int) -> None:
    """In no format does `raw` turn anything, while the header still states the orientation."""
    exif = Image.Exif()
    exif[0x0112] = value
    data = saved(format, exif=exif)
    assert np.array_equal(decode_image(data, "raw"), decode_image(saved(format)))
    assert read_header(data, "raw")[:3] == (W, H, value)
    assert read_header(data)[:2] == decode_image(data).shape[1::-1]


def test_label_maps_are_turned_like_images() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    labels = np.arange(W * H, dtype=np.uint16).astype(np.uint8).reshape(H, W)
    data = saved("PNG", labels, exif=exif)
    assert np.array_equal(decode_labels(data), np.rot90(labels, -1))
    assert np.array_equal(decode_labels(data, "raw"), labels)


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}, {"quality": 100, "subsampling": 0}]
)
@pytest.mark.parametrize("lost", [1, 2])
def test_a_jpeg_without_its_end_marker_is_whole(options: dict[str, Any], lost: int) -> None:
    data = saved("JPEG", **options)
    assert np.array_equal(decode_image(data[:-lost]), decode_image(data))
    gray = saved("JPEG", SMOOTH[..., 0], **options)
    assert np.array_equal(decode_image(gray[:-lost]), decode_image(gray))


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_a_jpeg_that_lacks_pixels_is_never_taken_for_whole(data: st.DataObject) -> None:
    """Wherever it is cut, a JPEG either has all its pixels or is `truncated`."""
    options = {
        "quality": data.draw(st.integers(20, 100)),
        "progressive": data.draw(st.booleans()),
        "restart_marker_blocks": data.draw(st.integers(0, 3)),
    }
    whole = saved("JPEG", SMOOTH[: data.draw(st.integers(1, H)), : data.draw(st.integers(1, W))], **options)
    cut = whole[: -data.draw(st.integers(1, min(300, len(whole) - 1)))]
    try:
        outcome = "whole" if np.array_equal(decode_image(cut), decode_image(whole)) else "other pixels"
    except BadItem as problem:
        outcome = problem.reason
    assert outcome in ("whole", "truncated", "not_an_image")


BESIDE_THE_PIXELS = {
    "compressed text": chunk(b"zTXt", b"k\0\0" + zlib.compress(MEGABYTES)),
    "international text": chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(MEGABYTES)),
    "color profile": chunk(b"iCCP", b"p\0\0" + zlib.compress(MEGABYTES)),
    "short gamma": chunk(b"gAMA", b"1"),
    "wrong checksum": chunk(b"tEXt", b"k\0v")[:-4] + b"sums",
    "unknown compression": chunk(b"zTXt", b"k\0\5"),
    "frames out of order": chunk(b"acTL", struct.pack(">II", 3, 0)) + chunk(b"fcTL", bytes([9] * 26)),
}


@pytest.mark.parametrize("odd", BESIDE_THE_PIXELS.values(), ids=BESIDE_THE_PIXELS.keys())
@pytest.mark.parametrize("after_pixels", [False, True])
def test_nothing_beside_the_pixels_of_a_png_costs_the_image(odd: bytes, after_pixels: bool) -> None:
    """Megabytes of text, large profiles and damaged chunks, before or after the pixels; its rotation is kept."""
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = saved("PNG", exif=exif)
    place = len(plain) - 12 if after_pixels else 33
    data = plain[:place] + odd + plain[place:]
    assert np.array_equal(decode_image(data), np.rot90(SMOOTH, -1))
    assert read_header(data)[:3] == (H, W, 6)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "I;16"])
def test_a_png_of_any_mode_survives_its_metadata(mode: str) -> None:
    image = (
        Image.fromarray(SMOOTH[..., 0].astype(np.uint16) * 200)
        if mode == "I;16"
        else Image.fromarray(SMOOTH).convert(mode)
    )
    stream = io.BytesIO()
    image.save(stream, "PNG")
    data = stream.getvalue()
    odd = data[:33] + BESIDE_THE_PIXELS["color profile"] + data[33:]
    assert np.array_equal(decode_image(odd), decode_image(data))


def test_a_png_is_whole_as_long_as_its_pixels_are() -> None:
    """Without its end, without a checksum: whole. With one byte of its pixels less: truncated."""
    data = saved("PNG")
    for lost in (4, 12, 16, 20):  # the end mark, the checksum of the pixels, the checksum in their stream
        assert np.array_equal(decode_image(data[:-lost]), SMOOTH)
    assert reason_of(data[:-40]) == "truncated"


@pytest.mark.parametrize(
    "segment", [b"\xff\xe2\0\x12ICC_PROFILE\0\1\2a\3", b"\xff\xe0\0\6JFIF", b"\xff\xee\0\7Adobe", b"\xff\xe2\0\7MPF\0a"]
)
def test_a_damaged_segment_of_an_application_costs_no_jpeg(segment: bytes) -> None:
    data = saved("JPEG")
    odd = data[:2] + segment + data[2:]
    assert np.array_equal(decode_image(odd), decode_image(data)) and read_header(odd)[:2] == (W, H)


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\n<html>404 Not Found</html>", "HTML"),
        (b'{"error": "not found"}', "JSON"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "EPS"),
        (bytes(900), "900 zeros"),
        (saved("JPEG").replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"), "JPEG.*12-bit"),
        (b"GIF89a\1", "GIF.*ends early"),
    ],
)
def test_what_is_refused_is_named_with_the_reason(data: bytes, part: str) -> None:
    with pytest.raises(BadItem, match=f"(?s)not_an_image.*{part}"):
        decode_image(data)


@pytest.mark.parametrize("format", FORMATS)
def test_half_a_file_is_truncated_in_every_format(format: str) -> None:
    data = saved(format, np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8))
    assert reason_of(data[: len(data) // 2]) == "truncated"


@pytest.mark.parametrize("format", ["GIF", "PNG", "MPO"])
def test_a_file_of_several_images_needs_only_its_first_one(format: str) -> None:
    images = [Image.fromarray(np.roll(SMOOTH, 5 * i, axis=1)) for i in range(3)]
    stream = io.BytesIO()
    images[0].save(stream, format, save_all=True, append_images=images[1:])
    data = stream.getvalue()
    assert np.array_equal(decode_image(data[: len(data) * 3 // 4]), decode_image(data))


def test_pixels_that_are_damaged_but_not_missing_are_not_called_truncated() -> None:
    data = bytearray(saved("PNG"))
    data[60:64] = b"\xff\xff\xff\xff"
    assert reason_of(bytes(data)) == "undecodable"
