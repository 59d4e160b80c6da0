"""The benchmark layout: what is written is read back, and what is not in the layout is said."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ovseg.core.errors import BadItem, OvsegError
from ovseg.core.images import decode_labels
from ovseg.datasets.benchmark import ITEMS, LABELS, METADATA, read_benchmark, write_benchmark, write_labels

NAMES = [["sky"], ["grass", "lawn"], ["traffic light"]]
SIZE = (6, 8)


def pixels_of(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def labels_of(seed: int, highest: int = 2, ignore: int = 255) -> NDArray[np.int64]:
    labels = np.random.default_rng(seed).integers(0, highest + 1, SIZE)
    labels[0, 0], labels[0, 1] = ignore, highest
    return labels


def make(folder: Path, number: int = 3, **changes: Any) -> Path:
    """A benchmark of `number` images in `folder`/set."""
    options: dict[str, Any] = {"names": NAMES, "ignore": 255, "seen": [True, False, True], "source": "me", **changes}
    (folder / "images" / "deep").mkdir(parents=True)
    items = []
    for i in range(number):
        Image.fromarray(pixels_of(i)).save(folder / "images" / "deep" / f"{i}.png")
        items.append((f"deep/{i}.png", f"deep/{i}.png", labels_of(i, len(options["names"]) - 1, options["ignore"])))
    ignore, names = options.pop("ignore"), options.pop("names")
    assert write_benchmark(folder / "set", folder / "images", names, ignore, items, **options) == number
    return folder / "set"


def change(folder: Path, **fields: Any) -> None:
    """Change the description; None leaves a field out."""
    about = json.loads((folder / METADATA).read_text()) | fields
    (folder / METADATA).write_text(json.dumps({name: value for name, value in about.items() if value is not None}))


@pytest.mark.parametrize("seen", [None, [True, False, True]])
def test_what_is_written_is_read_back(tmp_path: Path, seen: list[bool] | None) -> None:
    benchmark = read_benchmark(make(tmp_path, seen=seen))
    assert benchmark.names == (("sky",), ("grass", "lawn"), ("traffic light",)) and benchmark.ignore == 255
    assert benchmark.seen == (None if seen is None else (True, False, True))
    assert benchmark.items == tuple((f"deep/{i}.png",) * 2 for i in range(3))
    for i in range(3):
        pixels, labels = benchmark.read(i)
        assert np.array_equal(pixels, pixels_of(i)) and np.array_equal(labels, labels_of(i))
        assert labels.dtype == np.uint16
        assert decode_labels((tmp_path / "set" / LABELS / f"deep/{i}.png").read_bytes()).dtype == np.uint8


def test_names_are_read_in_their_normal_form(tmp_path: Path) -> None:
    folder = make(tmp_path, names=[["cafe\u0301"], ["salt &amp;amp; pepper", "traffic\u00a0light"], ["sky"]])
    assert read_benchmark(folder).names == (("caf\u00e9",), ("salt & pepper", "traffic light"), ("sky",))


def test_a_benchmark_can_be_moved_with_its_images(tmp_path: Path) -> None:
    make(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    assert read_benchmark(tmp_path / "b" / "set").read(1)[0].shape == (*SIZE, 3)


def test_many_classes_have_labels_of_16_bits(tmp_path: Path) -> None:
    names = [[f"thing {i}"] for i in range(847)]
    benchmark = read_benchmark(make(tmp_path, names=names, ignore=65535, seen=None))
    raw = decode_labels((tmp_path / "set" / LABELS / "deep/1.png").read_bytes())
    assert raw.dtype == np.uint16 and {846, 65535} <= set(raw.ravel().tolist())
    assert np.array_equal(benchmark.read(1)[1], labels_of(1, 846, 65535))


@pytest.mark.parametrize(("highest", "kind"), [(0, np.uint8), (255, np.uint8), (256, np.uint16), (65535, np.uint16)])
@pytest.mark.parametrize("given", [np.int32, np.int64, np.uint16])
def test_labels_have_8_bits_where_they_fit_and_else_16(tmp_path: Path, highest: int, kind: Any, given: Any) -> None:
    labels = np.array([[0, highest], [highest // 2, 0]]).astype(given)
    write_labels(tmp_path / "new" / "a.png", labels)
    decoded = decode_labels((tmp_path / "new" / "a.png").read_bytes())
    assert decoded.dtype == kind and np.array_equal(decoded, labels)


def test_without_a_list_labels_are_paired_with_images_of_the_same_name(tmp_path: Path) -> None:
    folder = make(tmp_path, 0)
    for name in ("b.jpg", "a.jpeg", "c.png", "only-a-image.png"):
        Image.fromarray(pixels_of(0)).save(tmp_path / "images" / name)
    for stem in ("c", "b", "a", "gone"):
        write_labels(folder / LABELS / f"{stem}.png", labels_of(0))
    (folder / ITEMS).unlink()
    benchmark = read_benchmark(folder)
    assert benchmark.items == (("a.jpeg", "a.png"), ("b.jpg", "b.png"), ("c.png", "c.png"), ("gone.jpg", "gone.png"))
    assert benchmark.read(2)[0].shape == (*SIZE, 3)
    with pytest.raises(BadItem, match="missing"):
        benchmark.read(3)


def labeled(folder: Path, images: dict[str, str], **options: Any) -> Path:
    """A benchmark without a list: images by the name of their label file."""
    benchmark = make(folder, 0)
    (benchmark / ITEMS).unlink()
    for i, (label, image) in enumerate(images.items()):
        for path in (folder / "images" / image, benchmark / LABELS / label):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels_of(i)).save(folder / "images" / image, **options)
        Image.fromarray(labels_of(i).astype(np.uint8)).save(benchmark / LABELS / label)
    return benchmark


def test_images_and_labels_may_have_any_suffix_in_any_case(tmp_path: Path) -> None:
    """Of all formats that are decoded, in subfolders, too; labels must not be of a format that loses numbers."""
    images = {
        "a.png": "a.JPG",
        "b.PNG": "b.webp",
        "c.tif": "c.bmp",
        "d.bmp": "d.jpeg",
        "x/e.TIFF": "x/e.gif",
        "f.g.png": "f.g.png",
    }
    benchmark = read_benchmark(labeled(tmp_path, images))
    assert benchmark.items == tuple((image, label) for label, image in sorted(images.items()))
    assert benchmark.unread == benchmark.unlabeled == ()
    for i, label in enumerate(images):
        item = [name for _, name in benchmark.items].index(label)
        assert np.array_equal(benchmark.read(item)[1], labels_of(i))


def test_files_that_are_no_labels_and_images_without_labels_are_known(tmp_path: Path) -> None:
    folder = labeled(tmp_path, {"a.png": "a.jpg", "b.png": "b.jpg"})
    for name in ("._a.png", ".DS_Store", "Thumbs.db", "notes.txt", "c.jpg"):
        (folder / LABELS / name).write_bytes(b"")
    for name in ("more.jpg", "._b.jpg", "desktop.ini"):
        (tmp_path / "images" / name).write_bytes(b"")
    benchmark = read_benchmark(folder)
    assert [label for _, label in benchmark.items] == ["a.png", "b.png"]
    assert benchmark.unread == ("c.jpg", "notes.txt") and benchmark.unlabeled == ("more.jpg",)


@pytest.mark.parametrize("place", [LABELS, "."])
def test_labels_may_lie_in_the_folder_of_the_images(tmp_path: Path, place: str) -> None:
    folder = labeled(tmp_path, {"a.png": "a.jpg"})
    (tmp_path / "images" / "a.jpg").rename(folder / place / "a.jpg")
    change(folder, images=place)
    benchmark = read_benchmark(folder)
    assert benchmark.items == (("a.jpg", "a.png"),) and benchmark.unread == benchmark.unlabeled == ()
    assert np.array_equal(benchmark.read(0)[1], labels_of(0))


def test_two_images_for_one_label_map_are_an_error_that_names_both(tmp_path: Path) -> None:
    folder = labeled(tmp_path, {"a.png": "a.jpg"})
    Image.fromarray(pixels_of(1)).save(tmp_path / "images" / "a.bmp")
    with pytest.raises(OvsegError, match=r"a\.bmp and a\.jpg .*a\.png.*items\.tsv"):
        read_benchmark(folder)
    (folder / ITEMS).write_text("image\tlabel\na.jpg\ta.png\n")
    assert read_benchmark(folder).items == (("a.jpg", "a.png"),)


@pytest.mark.parametrize("orientation", ["exif", "raw"])
@pytest.mark.parametrize("turned", [3, 6])
def test_labels_of_rotated_images_are_of_the_orientation_that_the_description_states(
    tmp_path: Path, orientation: str, turned: int
) -> None:
    """Labels drawn on stored pixels are read with "raw"; otherwise they are dropped, where their size can tell, or counted."""
    exif = Image.Exif()
    exif[0x0112] = turned
    folder = labeled(tmp_path, {"a.png": "a.png"}, exif=exif)
    change(folder, orientation=orientation)
    benchmark, counts = read_benchmark(folder), Counter[str]()
    if orientation == "exif" and turned == 6:
        with pytest.raises(BadItem, match=r"other_orientation.*raw"):
            benchmark.read(0, counts)
    else:
        pixels, labels = benchmark.read(0, counts)
        assert np.array_equal(labels, labels_of(0))
        assert np.array_equal(pixels, pixels_of(0) if orientation == "raw" else pixels_of(0)[::-1, ::-1])
    assert counts == {"rotated": 1} | ({"rotated_same_size": 1} if turned == 3 else {})


def test_an_orientation_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path)
    change(folder, orientation="upright")
    with pytest.raises(OvsegError, match=r"'upright'.*exif.*raw"):
        read_benchmark(folder)


@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16"])
def test_labels_of_few_bits_keep_their_numbers(tmp_path: Path, mode: str) -> None:
    folder = labeled(tmp_path, {"a.png": "a.jpg"})
    values = np.array([[0, 1, 1, 0]] * 3, np.uint8)
    image = Image.fromarray(values.astype(np.uint16) if mode == "I;16" else values * (255 if mode == "1" else 1))
    image = image.convert("1") if mode == "1" else image
    if mode == "P":
        image.putpalette([0, 0, 0, 200, 10, 30])
    image.save(folder / LABELS / "a.png")
    assert np.array_equal(decode_labels((folder / LABELS / "a.png").read_bytes()), values)


@pytest.mark.parametrize("bits", [2, 4])
def test_gray_labels_of_two_and_four_bits_are_not_stretched(bits: int) -> None:
    """A PNG can store gray values in fewer than 8 bits, which decoders stretch to 255 for looking at them."""
    values = np.arange(8, dtype=np.uint8).reshape(1, 8) % 2**bits
    packed = np.packbits(np.unpackbits(values.reshape(-1, 1), axis=1)[:, -bits:].reshape(-1)).tobytes()
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", 8, 1, bits, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0" + packed)),
        (b"IEND", b""),
    ]
    chunks = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    ]
    assert np.array_equal(decode_labels(b"\x89PNG\r\n\x1a\n" + b"".join(chunks)), values)


def test_labels_in_a_format_that_loses_numbers_are_refused() -> None:
    stream = io.BytesIO()
    Image.fromarray(labels_of(0).astype(np.uint8)).save(stream, "JPEG")
    with pytest.raises(BadItem, match=r"not_labels.*JPEG"):
        decode_labels(stream.getvalue())


def test_a_single_name_may_stand_without_brackets(tmp_path: Path) -> None:
    folder = make(tmp_path)
    change(folder, names=["sky", ["grass", "lawn"], "light"])
    assert read_benchmark(folder).names == (("sky",), ("grass", "lawn"), ("light",))


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"seen": [True, False]}, "seen"),
        ({"seen": []}, "seen"),
        ({"names": []}, "names"),
        ({"names": 5}, "int"),
        ({"names": [["sky"], 7]}, "7"),
        ({"names": None}, "names"),
        ({"ignore": None}, "ignore"),
        ({"ignore": "none"}, "none"),
        ({"images": None}, "images"),
        ({"seen": 1}, "int"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(tmp_path: Path, fields: dict[str, Any], part: str) -> None:
    folder = make(tmp_path)
    change(folder, **fields)
    with pytest.raises(OvsegError, match=f"{folder / METADATA} .*{part}"):
        read_benchmark(folder)


@pytest.mark.parametrize("text", ["{", "", "[]", "3", "null", '"set"'])
def test_a_description_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    folder = make(tmp_path)
    (folder / METADATA).write_text(text)
    with pytest.raises(OvsegError, match=r"benchmark\.json"):
        read_benchmark(folder)


def test_a_folder_that_is_no_benchmark_and_one_without_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OvsegError, match=r"benchmark\.json is missing"):
        read_benchmark(tmp_path)
    with pytest.raises(OvsegError, match="labels/"):
        read_benchmark(make(tmp_path, 0))


def test_a_broken_line_of_the_list_is_named(tmp_path: Path) -> None:
    folder = make(tmp_path)
    (folder / ITEMS).write_text("image\tlabel\na.png\tb.png\na.png b.png\n")
    with pytest.raises(OvsegError, match=r"items\.tsv, line 3: 'a\.png b\.png'"):
        read_benchmark(folder)


def test_an_item_that_cannot_be_read_has_a_reason(tmp_path: Path) -> None:
    folder = make(tmp_path, 4)
    label = folder / LABELS / "deep"
    write_labels(label / "0.png", np.zeros((8, 6), np.uint8))
    write_labels(label / "1.png", np.full(SIZE, 3))
    Image.fromarray(pixels_of(0)).save(label / "2.png")
    (label / "3.png").write_bytes(b"no image")
    (folder / ITEMS).write_text((folder / ITEMS).read_text() + "../out.png\t0.png\ndeep/0.png\tgone.png\n")
    benchmark = read_benchmark(folder)
    for item, reason, part in (
        (0, "label_size", r"deep/0\.png is 6 x 8"),
        (1, "label_outside", r"has \[3\]; .* names 0 to 2"),
        (2, "not_labels", "RGB"),
        (3, "not_an_image", ""),
        (4, "unsafe_path", "out"),
        (5, "missing", "gone"),
    ):
        with pytest.raises(BadItem, match=f"{reason}.*{part}") as problem:
            benchmark.read(item)
        assert problem.value.reason == reason


def test_the_number_that_is_ignored_is_no_label_outside(tmp_path: Path) -> None:
    folder = make(tmp_path)
    change(folder, ignore=254)
    with pytest.raises(BadItem, match=r"label_outside: .* has \[255\]"):
        read_benchmark(folder).read(0)
