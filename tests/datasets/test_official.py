"""Official releases become benchmarks pixel by pixel: real samples where they are at hand, and every trap in drawn files."""

from __future__ import annotations

import json
import os
import pickle
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from ovseg.cli import app
from ovseg.core.errors import OvsegError
from ovseg.datasets import official
from ovseg.datasets.ade20k import read_index, read_seg, shrink
from ovseg.datasets.benchmark import Benchmark, read_benchmark
from ovseg.datasets.classes import CLASS_TABLES, Class, read_classes
from ovseg.datasets.official import BENCHMARKS, convert, published
from ovseg.datasets.pascal_context import palette
from tests.conftest import SHARED

Array = NDArray[Any]

ADE, STUFF, CONTEXT = SHARED / "ade20k", SHARED / "minicoco" / "stuffthingmaps", SHARED / "pascal_context_samples"
FULL, PAIRS = ADE / "full2021", SHARED / "voc_pairs"
PUBLISHED = {
    "ade150": (150, 2000, 255),
    "ade847": (847, 2000, 65535),
    "pc59": (59, 5104, 255),
    "pc459": (459, 5104, 65535),
    "pas20": (20, 1449, 255),
    "voc": (20, 1449, 255),
    "cocostuff": (171, 5000, 255),
    "cocostuff156": (171, 5000, 255),
}
SIZE = (12, 20)
rng = np.random.default_rng(0)


def real(folder: Path) -> Path:
    """A folder of real samples, or the test is skipped."""
    if not folder.is_dir():
        pytest.skip(f"no real samples: {folder} is not there")
    return folder


def png(path: Path, values: Array, colours: Array | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if colours is not None:
        image = Image.fromarray(values, "P")
        image.putpalette(colours.ravel().tolist())
    image.save(path)


def photo(path: Path, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)).save(path, format="JPEG", quality=95)


def mat(path: Path, values: Array, name: str = "LabelMap") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {name: values}, do_compression=True)


def text(path: Path, lines: Sequence[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def spread(values: Sequence[int], kind: Any = np.uint8, size: tuple[int, int] = SIZE) -> Array:
    """A map in which each of the values occurs."""
    return np.resize(np.array(values, kind), size)


def seg(numbers: Array) -> Array:
    """Colours of `*_seg.png`: red is 10 for each 256, and some more that says nothing; blue is the instance."""
    rest = rng.integers(0, 10, numbers.shape)
    reds = numbers // 256 * 10
    return np.stack([reds + np.where(reds < 250, rest, 0), numbers % 256, rest], -1).astype(np.uint8)


def table(name: str) -> list[Class]:
    return read_classes(CLASS_TABLES / f"{name}.json")


def labels_of(benchmark: Benchmark) -> dict[str, Array]:
    return {benchmark.items[i][0]: benchmark.read(i)[1] for i in range(len(benchmark.items))}


def converted(name: str, root: Path, out: Path, **rest: Any) -> tuple[dict[str, Array], dict[str, int]]:
    counts = convert(name, root, out, allow_missing=True, **rest)
    return labels_of(read_benchmark(out)), counts


# releases as they unpack, with a few drawn images ------------------------------------------------------------------


def draw_ade150(root: Path, maps: Mapping[str, Array]) -> None:
    home = root / "ADEChallengeData2016"
    for name, values in maps.items():
        photo(home / "images" / "validation" / f"{name}.jpg", values.shape)
        png(home / "annotations" / "validation" / f"{name}.png", values)


def draw_stuff(root: Path, maps: Mapping[str, Array]) -> None:
    for name, values in maps.items():
        photo(root / "val2017" / f"{name}.jpg", values.shape)
        png(root / "stuffthingmaps" / "val2017" / f"{name}.png", values)


def draw_voc(
    root: Path, maps: Mapping[str, Array], colours: Array | None = None, folder: str = "SegmentationClassAug"
) -> None:
    home = root / "VOCdevkit" / "VOC2012"
    for name, values in maps.items():
        photo(home / "JPEGImages" / f"{name}.jpg", values.shape)
        png(home / folder / f"{name}.png", values, colours)
    text(home / "ImageSets" / "Segmentation" / "val.txt", list(maps))


def draw_context(root: Path, maps: Mapping[str, Array]) -> Path:
    home = root / "VOCdevkit" / "VOC2010"
    for name, values in maps.items():
        photo(home / "JPEGImages" / f"{name}.jpg", values.shape)
        mat(home / "trainval" / f"{name}.mat", values)
    text(home / "pascalcontext_val.txt", list(maps))
    text(home / "labels.txt", [f"{one.id}: {one.names[0]}" for one in table("pc459")])
    return home


RELEASE_59 = [  # the order of the release's 59_labels.txt
    *(one.names[0].replace("dining", "") for one in table("pas20")),
    *"bag bed bench book building cabinet ceiling cloth computer cup door fence floor flower food grass ground".split(),
    *"keyboard light mountain mouse curtain platform sign plate road rock shelves sidewalk sky snow bedclothes".split(),
    *"track tree truck wall water window wood".split(),
]


OBJECTS = {  # numbers of classes as the release writes their names; 300 is of none of the 847
    5: "wall",
    256: "building, edifice",
    300: "nothing of the 847",
    2977: "altar, communion table, Lord''s table",
    3600: "central processing unit, CPU, C P U , central processor, processor, mainframe",
}
PLACES = {
    number: next((i for i, one in enumerate(table("ade847")) if one.names[0] == name), 65535)
    for number, name in zip(OBJECTS, ("wall", "building", "?", "altar", "central processing unit"), strict=True)
}


def draw_ade847(root: Path, maps: Mapping[str, Array], objects: Mapping[int, str] = OBJECTS) -> Path:
    folder = root / "ADE20K_2021_17_01" / "images" / "ADE" / "validation" / "urban" / "street"
    for name, values in maps.items():
        photo(folder / f"{name}.jpg", values.shape)
        png(folder / f"{name}_seg.png", seg(values.astype(int)))
        png(folder / name / f"instance_000_{name}.png", values.astype(np.uint8))
        about = {"object": [{"name_ndx": number, "name": said, "raw_name": "é"} for number, said in objects.items()]}
        said = json.dumps({"annotation": about}, ensure_ascii=False)
        (folder / f"{name}.json").write_text(said, encoding="latin-1")
    return folder


def write_index(root: Path, objects: Mapping[int, str] = OBJECTS, protocol: int = 4) -> Path:
    names = [objects.get(number, f"object {number}") for number in range(1, 3688)]
    path = root / "ADE20K_2021_17_01" / "index_ade20k.pkl"
    path.write_bytes(pickle.dumps({"objectnames": names, "objectPresence": np.ones((3, 2))}, protocol))
    return path


# what is declared ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BENCHMARKS)
def test_what_is_declared_is_what_was_published(name: str) -> None:
    one = BENCHMARKS[name]
    assert (len(table(name)), one.images, one.ignore) == PUBLISHED[name]
    assert json.loads((CLASS_TABLES / f"{name}.json").read_text())["ignore"] == one.ignore
    unseen = {"voc": 5, "cocostuff156": 15}.get(name, 0)
    assert sum(not entry.seen for entry in table(name)) == unseen


# drawn files: label rules --------------------------------------------------------------------------------------------


def test_ade150_counts_from_one_and_zero_is_not_scored(tmp_path: Path) -> None:
    values = spread(range(151), size=(16, 20))
    draw_ade150(tmp_path, {"ADE_val_00000001": values})
    found, counts = converted("ade150", tmp_path, tmp_path / "out")
    wanted = np.where(values == 0, 255, values.astype(int) - 1)
    assert np.array_equal(found["ADE_val_00000001.jpg"], wanted)
    assert counts["classes"] == 150 and counts["ignored_pixels"] == (values == 0).sum() and counts["pixels"] == 320
    assert read_benchmark(tmp_path / "out").seen is None


@pytest.mark.parametrize("name", ["cocostuff", "cocostuff156"])
def test_gaps_of_coco_stuff_are_closed_and_their_numbers_ignored(name: str, tmp_path: Path) -> None:
    """Each id of the class table becomes its place; the 11 ids that were never used, and 255, are ignored."""
    values = spread([*range(182), 255], size=(10, 20))
    draw_stuff(tmp_path, {"000000000001": values})
    found, counts = converted(name, tmp_path, tmp_path / "out")
    place = {one.id: i for i, one in enumerate(table(name))}
    wanted = np.vectorize(lambda value: place.get(value, 255))(values)
    assert len(place) == 171 and np.array_equal(found["000000000001.jpg"], wanted)
    gaps = sorted(set(range(182)) - set(place))
    assert (
        len(gaps) == 11 and counts["classes"] == 171 and counts["ignored_pixels"] == np.isin(values, [*gaps, 255]).sum()
    )
    seen = read_benchmark(tmp_path / "out").seen
    assert seen is None if name == "cocostuff" else seen is not None and seen.count(False) == 15


@pytest.mark.parametrize("name", ["pas20", "voc"])
@pytest.mark.parametrize("folder", ["SegmentationClassAug", "SegmentationClass"])
def test_background_and_borders_of_voc_are_not_scored(name: str, folder: str, tmp_path: Path) -> None:
    """Grey or with a palette; an image of background alone is left out and counted, and is no fault."""
    values, empty = spread([*range(21), 255]), spread([0, 255])
    draw_voc(
        tmp_path, {"2007_1": values, "2007_2": empty}, palette() if folder == "SegmentationClass" else None, folder
    )
    found, counts = converted(name, tmp_path, tmp_path / "out")
    assert np.array_equal(
        found["2007_1.jpg"], np.where(values == 0, 255, np.where(values == 255, 255, values.astype(int) - 1))
    )
    assert list(found) == ["2007_1.jpg"] and counts["dropped.unscored"] == 1 and counts["images"] == 1
    assert (read_benchmark(tmp_path / "out").seen is None) == (name == "pas20")


def test_all_459_of_pascal_context(tmp_path: Path) -> None:
    """LabelMap less 1, in 16 bits; class 255 is a class, and 0 is ignored."""
    values = spread(range(460), np.uint16, (20, 23))
    draw_context(tmp_path, {"2008_1": values})
    found, counts = converted("pc459", tmp_path, tmp_path / "out")
    assert np.array_equal(found["2008_1.jpg"], np.where(values == 0, 65535, values.astype(int) - 1))
    assert Image.open(tmp_path / "out" / "labels" / "2008_1.png").mode.startswith("I") and counts["classes"] == 459


def test_59_of_pascal_context_by_the_names_of_the_release(tmp_path: Path) -> None:
    """What is none of the 59 is ignored; the release's "table" is the "diningtable" of the usual list."""
    values = spread(range(460), np.uint16, (20, 23))
    home = draw_context(tmp_path, {"2008_1": values})
    found, counts = converted("pc59", tmp_path, tmp_path / "out")
    names = {
        one.id: one.names[0].replace("table", "diningtable") if one.id == 397 else one.names[0]
        for one in table("pc459")
    }
    place = {one.names[0]: i for i, one in enumerate(table("pc59"))}
    wanted = np.vectorize(lambda value: place.get(names.get(value, ""), 255))(values)
    assert np.array_equal(found["2008_1.jpg"], wanted) and counts["classes"] == 59
    (home / "labels.txt").unlink()
    with pytest.raises(OvsegError, match=r"labels\.txt"):
        convert("pc59", tmp_path, tmp_path / "other", allow_missing=True)
    for lines, part in ((["1: accordion"], "aeroplane"), (["accordion"], "'accordion'")):
        text(home / "labels.txt", lines)
        with pytest.raises(OvsegError, match=rf"labels\.txt.*{part}"):
            convert("pc59", tmp_path, tmp_path / "other", allow_missing=True)


@pytest.mark.parametrize("kind", ["grey", "palette", "colours"])
@pytest.mark.parametrize("alphabetical", [True, False])
def test_59_of_pascal_context_from_pngs_that_count_in_two_ways(kind: str, alphabetical: bool, tmp_path: Path) -> None:
    """By alphabet in SegmentationClassContext; as 59_labels.txt says where that is there; never by a guess."""
    values, home = spread(range(60)), tmp_path / "VOCdevkit" / "VOC2010"
    photo(home / "JPEGImages" / "2008_1.jpg")
    drawn = palette()[values] if kind == "colours" else values
    folder = "SegmentationClassContext" if alphabetical else "trainval"
    png(home / folder / "2008_1.png", drawn, palette() if kind == "palette" else None)
    text(home / "ImageSets" / "SegmentationContext" / "val.txt", ["2008_1"])
    names = [one.names[0] for one in table("pc59")]
    order = names if alphabetical else RELEASE_59
    if not alphabetical:
        with pytest.raises(OvsegError, match=r"59_labels\.txt"):
            convert("pc59", tmp_path, tmp_path / "out", allow_missing=True)
        text(home / "59_labels.txt", [f"{number}: {name}" for number, name in enumerate(order, start=1)])
    found, _ = converted("pc59", tmp_path, tmp_path / "out")
    places = [255, *(names.index(name.replace("table", "diningtable") if name == "table" else name) for name in order)]
    assert np.array_equal(found["2008_1.jpg"], np.array(places)[values])


@pytest.mark.parametrize("index", [False, True])
def test_847_of_ade20k_by_name_whatever_their_numbers(index: bool, tmp_path: Path) -> None:
    """Names compare without case, doubled apostrophes and stray blanks; other objects, parts and 0 are ignored."""
    values = spread([0, *OBJECTS], np.uint16)
    draw_ade847(tmp_path, {"ADE_val_1": values})
    if index:
        write_index(tmp_path)
    found, counts = converted("ade847", tmp_path, tmp_path / "out")
    wanted = np.vectorize(lambda value: PLACES.get(value, 65535))(values)
    assert np.array_equal(found["urban/street/ADE_val_1.jpg"], wanted)
    assert counts["classes"] == 4 and sorted(PLACES.values())[-1] == 65535


def test_short_sides_above_512_become_512_and_no_other_image_changes(tmp_path: Path) -> None:
    """The new labels are those under the centre of each new pixel; the images are JPEGs in the benchmark's own folder."""
    numbers = [0, *OBJECTS]
    sizes = {"big": (600, 801), "tall": (900, 513), "even": (512, 700), "small": SIZE}
    maps = {name: rng.choice(numbers, size).astype(np.uint16) for name, size in sizes.items()}
    folder = draw_ade847(tmp_path, maps)
    found, _ = converted("ade847", tmp_path, tmp_path / "out")
    shapes = {Path(name).stem: labels.shape for name, labels in found.items()}
    assert shapes == {"big": (512, 684), "tall": (898, 512), "even": (512, 700), "small": SIZE}
    for name, labels in found.items():
        whole = maps[Path(name).stem]
        for row, column in rng.integers(0, labels.shape, (500, 2)).tolist():
            there = [
                Fraction(2 * at + 1, 2 * new) * old
                for at, new, old in zip((row, column), labels.shape, whole.shape, strict=True)
            ]
            assert labels[row, column] == PLACES.get(int(whole[int(there[0]), int(there[1])]), 65535)
    written = tmp_path / "out" / "images" / "urban" / "street"
    assert (written / "even.jpg").read_bytes() == (folder / "even.jpg").read_bytes()
    before = np.asarray(Image.open(folder / "big.jpg").resize((684, 512), Image.Resampling.BILINEAR), np.int16)
    assert np.abs(before - np.asarray(Image.open(written / "big.jpg"), np.int16)).mean() < 12  # noise, through a JPEG
    assert not list((tmp_path / "out").glob("*.tmp"))
    (written / "tall.jpg").unlink()
    assert convert("ade847", tmp_path, tmp_path / "out", allow_missing=True)["reused"] == 3
    assert Image.open(written / "tall.jpg").size == (512, 898)
    assert shrink(np.zeros((512, 900, 3), np.uint8), np.zeros((512, 900), np.uint16), 512) is None


# drawn files: the index of ADE20K ------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(6))
def test_the_index_is_read_in_every_protocol_of_pickles(protocol: int, tmp_path: Path) -> None:
    (tmp_path / "ADE20K_2021_17_01").mkdir()
    names = read_index(write_index(tmp_path, protocol=protocol))
    assert names[5] == "wall" and len(names) == 3687 and names[2977].endswith("lord's table")
    objects = {"objectnames": np.array(["a, B", "c"], dtype=object), "counts": np.float64(3), "some": {1}}
    path = tmp_path / "old.pkl"
    path.write_bytes(
        pickle.dumps(objects, protocol).replace(b"numpy._core", b"numpy.core")
        if protocol < 4
        else pickle.dumps(objects)
    )
    assert read_index(path) == {1: "a, b", 2: "c"}


class Evil:
    """What a pickle could do."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("pwned",)


@pytest.mark.parametrize(
    "content", [pickle.dumps({"objectnames": [Evil()]}), b"", b"\x80\x04garbage", pickle.dumps([1])]
)
def test_an_index_that_is_anything_else_runs_nothing(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "index.pkl").write_bytes(content)
    with pytest.raises(OvsegError, match=r"index\.pkl"):
        read_index(tmp_path / "index.pkl")
    assert not (tmp_path / "pwned").exists()


def test_an_index_that_counts_otherwise_than_the_images_is_refused(tmp_path: Path) -> None:
    draw_ade847(tmp_path, {"ADE_val_1": spread([5], np.uint16)})
    write_index(tmp_path, {number + 1: name for number, name in OBJECTS.items()})
    with pytest.raises(OvsegError, match=r"object 5 .*'object 5'"):
        convert("ade847", tmp_path, tmp_path / "out", allow_missing=True)


# drawn files: what goes wrong ----------------------------------------------------------------------------------------


@pytest.fixture
def six(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A release of six images of ADE20K-150, which is published as one of six."""
    draw_ade150(tmp_path, {f"ADE_val_{i}": spread([i, 150]) for i in range(1, 7)})
    monkeypatch.setitem(BENCHMARKS, "ade150", replace(BENCHMARKS["ade150"], images=6, counted=False))
    return tmp_path


def test_a_whole_release_whose_classes_do_not_all_occur_is_an_error(six: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BENCHMARKS, "ade150", replace(BENCHMARKS["ade150"], counted=True))
    with pytest.raises(OvsegError, match=r"7 classes .*150 .*--allow-missing"):
        convert("ade150", six, six / "out")
    assert not (six / "out" / "benchmark.json").exists()
    assert convert("ade150", six, six / "out", allow_missing=True)["classes"] == 7


def damage(root: Path) -> None:
    images, maps = (root / "ADEChallengeData2016" / one / "validation" for one in ("images", "annotations"))
    (images / "ADE_val_1.jpg").unlink()
    (maps / "ADE_val_2.png").unlink()
    (images / "ADE_val_3.jpg").write_bytes((images / "ADE_val_3.jpg").read_bytes()[:-200])
    png(maps / "ADE_val_4.png", spread([1], size=(20, 12)))
    png(maps / "ADE_val_5.png", spread([1, 151]))


def test_bad_images_are_counted_by_reason_and_the_others_converted(six: Path) -> None:
    assert convert("ade150", six, six / "out")["images"] == 6
    damage(six)
    with pytest.raises(OvsegError, match=r"5 of 6 images .*2 missing, 1 truncated, 1 label_size, 1 label_outside"):
        convert("ade150", six, six / "out")
    assert not (six / "out" / "benchmark.json").exists()  # which an earlier run had written
    found, counts = converted("ade150", six, six / "out")
    assert list(found) == ["ADE_val_6.jpg"] and counts["reused"] == 1
    dropped = {name: n for name, n in counts.items() if name.startswith("dropped.")}
    assert dropped == {
        "dropped.missing": 2,
        "dropped.truncated": 1,
        "dropped.label_size": 1,
        "dropped.label_outside": 1,
    }
    rows = [line.split("\t") for line in (six / "out" / "dropped.tsv").read_text().splitlines()]
    assert [row[1] for row in rows] == ["reason", "missing", "missing", "truncated", "label_size", "label_outside"]
    assert "ADE_val_2.png" in rows[2][2] and "151" in rows[5][2]


def test_no_usable_image_is_an_error_whatever_is_allowed(tmp_path: Path) -> None:
    draw_ade150(tmp_path, {"a": spread([0])})
    with pytest.raises(OvsegError, match="1 of 1 images"):
        convert("ade150", tmp_path, tmp_path / "out", allow_missing=True)


def test_another_number_of_images_than_published(six: Path) -> None:
    """It is said before anything is written."""
    for folder in ("images", "annotations"):
        next((six / "ADEChallengeData2016" / folder / "validation").glob("ADE_val_6.*")).unlink()
    with pytest.raises(OvsegError, match=r"5 images of ade150.* 6 .*ADEChallengeData2016\.zip"):
        convert("ade150", six, six / "out")
    assert not (six / "out").exists()
    assert convert("ade150", six, six / "out", allow_missing=True)["images"] == 5


@pytest.mark.parametrize(
    ("name", "there", "parts"),
    [
        (
            "ade150",
            "ADEChallengeData2016/images/training",
            "images/validation .*ADEChallengeData2016.*'images'",
        ),
        ("ade847", "images/ADE/training", "images/ADE/validation"),
        (
            "pc59",
            "VOCdevkit/VOC2010/JPEGImages",
            "trainval or SegmentationClassContext .*JPEGImages.*roozbeh",
        ),
        ("voc", "VOCdevkit/VOC2012/JPEGImages", "SegmentationClassAug or SegmentationClass "),
        (
            "cocostuff",
            "val2017",
            r"stuffthingmaps/val2017 or annotations/val2017 .*\['val2017'\].*cocodataset",
        ),
        ("pas20", "", "JPEGImages"),
        ("pas21", "", "'pas21'.*ade150"),
    ],
)
def test_a_wrong_folder_is_named(name: str, there: str, parts: str, tmp_path: Path) -> None:
    (tmp_path / "r" / there).mkdir(parents=True)
    with pytest.raises(OvsegError, match=parts):
        convert(name, tmp_path / "r", tmp_path / "out")
    with pytest.raises(OvsegError):
        convert(name, tmp_path / "nowhere", tmp_path / "out")


def test_the_folder_of_the_release_itself_will_do(tmp_path: Path) -> None:
    draw_voc(tmp_path, {"a": spread([3])})
    for i, root in enumerate((tmp_path, tmp_path / "VOCdevkit", tmp_path / "VOCdevkit" / "VOC2012")):
        assert convert("pas20", root, tmp_path / str(i), allow_missing=True)["images"] == 1


@pytest.mark.parametrize("lines", [[], ["a", "a"], ["/JPEGImages/a.jpg /SegmentationClassAug/a.png"]])
def test_lists_that_are_none(lines: list[str], tmp_path: Path) -> None:
    draw_voc(tmp_path, {"a": spread([3])})
    text(tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt", lines)
    with pytest.raises(OvsegError, match=r"val\.txt"):
        convert("pas20", tmp_path, tmp_path / "out", allow_missing=True)


def test_names_that_leave_the_folder_are_refused(tmp_path: Path) -> None:
    draw_voc(tmp_path, {"a": spread([3])})
    text(tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt", ["a", "../JPEGImages/a"])
    assert converted("pas20", tmp_path, tmp_path / "out")[1]["dropped.unsafe_path"] == 1


def test_broken_label_files_of_every_kind(tmp_path: Path) -> None:
    home = draw_context(tmp_path, {name: spread([1], np.uint16) for name in "abcdef"})
    mat(home / "trainval" / "b.mat", spread([460], np.uint16))
    mat(home / "trainval" / "c.mat", spread([1]), "Other")
    (home / "trainval" / "d.mat").write_bytes((home / "trainval" / "d.mat").read_bytes()[:150])
    (home / "trainval" / "e.mat").write_bytes(b"")
    (home / "trainval" / "f.mat").unlink()
    counts = converted("pc459", tmp_path, tmp_path / "out")[1]
    assert {name[8:]: n for name, n in counts.items() if "." in name} == {
        "label_outside": 1,
        "not_labels": 1,
        "truncated": 2,
        "missing": 1,
    }
    png(home / "SegmentationClassContext" / "a.png", np.full((*SIZE, 3), 3, np.uint8))
    (home / "trainval").rename(home / "elsewhere")
    with pytest.raises(OvsegError, match=r"1 not_labels, 5 missing.*not_labels: color \[3, 3, 3\]"):
        convert("pc59", tmp_path, tmp_path / "59", allow_missing=True)


def test_a_json_that_is_missing_or_broken_drops_its_image(tmp_path: Path) -> None:
    folder = draw_ade847(tmp_path, {name: spread([5], np.uint16) for name in "abc"})
    (folder / "a.json").unlink()
    (folder / "b.json").write_text('{"annotation": {"object": [3]}}')
    counts = converted("ade847", tmp_path, tmp_path / "out")[1]
    assert counts["images"] == counts["dropped.missing"] == counts["dropped.bad_json"] == 1


# what is counted -----------------------------------------------------------------------------------------------------


def test_counts_are_written_beside_the_published_ones_and_stay_when_it_runs_again(six: Path) -> None:
    """counts.json is part of the benchmark, so it does not tell how often the conversion ran."""
    first = convert("ade150", six, six / "out")
    written = (six / "out" / "counts.json").read_bytes()
    second = convert("ade150", six, six / "out")
    assert (first["reused"], second["reused"]) == (0, 6) and (six / "out" / "counts.json").read_bytes() == written
    pixels = 6 * SIZE[0] * SIZE[1]
    assert json.loads(written) == {
        "images": 6,
        "classes": 7,
        "pixels": pixels,
        "ignored_pixels": 0,
        "published": {"images": 6, "classes": 150},
    }


def test_counts_are_of_the_images_that_are_kept(six: Path) -> None:
    damage(six)
    convert("ade150", six, six / "out", allow_missing=True)
    found = json.loads((six / "out" / "counts.json").read_text())
    assert (found["images"], found["classes"], found["dropped.missing"]) == (1, 2, 2)
    assert found["published"]["images"] == 6


@pytest.mark.parametrize("name", BENCHMARKS)
def test_what_was_published_is_said_for_every_benchmark(name: str) -> None:
    """Of the 459 classes of Pascal Context, 345 occur in the 5,104 images."""
    classes, images, _ = PUBLISHED[name]
    assert published(name) == {"images": images, "classes": 345 if name == "pc459" else classes}


def test_the_command_prints_the_counts_beside_the_published_ones(
    six: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ovseg", "convert-benchmark", "ade150", str(six), str(six / "out")])
    with pytest.raises(SystemExit) as stopped:
        app.main()
    assert not stopped.value.code
    lines = capsys.readouterr().out.splitlines()
    assert str(six / "out") in lines
    table = lines[lines.index(str(six / "out")) + 1 :]
    assert [line.split() for line in table] == [
        ["here", "published"],
        ["images", "6", "6"],
        ["classes", "7", "150"],
        ["pixels", "1,440"],
        ["ignored", "pixels", "0"],
        ["reused", "0"],
    ]
    assert len({len(line) for line in table[:3]}) == 1  # numbers stand below each other


# starting again ------------------------------------------------------------------------------------------------------


def test_finished_labels_are_kept_and_stale_or_broken_ones_made_again(six: Path) -> None:
    first = convert("ade150", six, six / "out")
    labels = six / "out" / "labels"
    before = {path.name: path.stat().st_mtime_ns for path in labels.iterdir()}
    source = six / "ADEChallengeData2016" / "annotations" / "validation" / "ADE_val_2.png"
    png(source, spread([77]))
    late = before["ADE_val_2.png"] + 10**9
    os.utime(source, ns=(late, late))
    (labels / "ADE_val_3.png").write_bytes(b"broken")
    (labels / "ADE_val_4.png").unlink()
    second = convert("ade150", six, six / "out")
    assert first["reused"] == 0 and second["reused"] == 3
    assert {name for name, when in before.items() if (labels / name).stat().st_mtime_ns == when} == {
        f"ADE_val_{i}.png" for i in (1, 5, 6)
    }
    found = labels_of(read_benchmark(six / "out"))
    assert (found["ADE_val_2.jpg"] == 76).all() and set(np.unique(found["ADE_val_3.jpg"])) == {2, 149}


def test_a_stopped_conversion_is_no_benchmark_and_goes_on(six: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a file is never taken for a label; the end result is that of a run that was not stopped."""
    calls = []

    def stops(path: Path, labels: Array) -> None:
        calls.append(path)
        if len(calls) == 4:
            path.write_bytes(b"half")
            raise KeyboardInterrupt
        Image.fromarray(labels.astype(np.uint8)).save(path)

    with monkeypatch.context() as patch:
        patch.setattr(official, "write_labels", stops)
        with pytest.raises(KeyboardInterrupt):
            convert("ade150", six, six / "out")
    assert not (six / "out" / "benchmark.json").exists() and len(list((six / "out" / "labels").iterdir())) == 3
    assert convert("ade150", six, six / "out")["reused"] == 3
    convert("ade150", six, six / "whole")
    for path in (six / "whole").rglob("*"):
        other = six / "out" / path.relative_to(six / "whole")
        assert path.is_dir() or path.read_bytes() == other.read_bytes(), path
    assert len(list((six / "out").rglob("*"))) == len(list((six / "whole").rglob("*")))


def test_labels_are_made_again_when_a_list_of_the_release_is_newer(tmp_path: Path) -> None:
    """59_labels.txt says what the numbers of a map mean."""
    home = draw_context(tmp_path, {"a": spread([1], np.uint16)})
    (home / "trainval" / "a.mat").unlink()
    png(home / "trainval" / "a.png", spread([1, 2]))
    names = [one.names[0] for one in table("pc59")]
    for path in (
        home / "JPEGImages" / "a.jpg",
        home / "trainval" / "a.png",
        home / "pascalcontext_val.txt",
        home / "labels.txt",
    ):
        os.utime(path, (time.time() - 3600, time.time() - 3600))
    for order in (names, names[::-1]):
        text(home / "59_labels.txt", [f"{number}: {name}" for number, name in enumerate(order, start=1)])
        found, counts = converted("pc59", tmp_path, tmp_path / "out")
        assert counts["reused"] == 0 and found["a.jpg"][0, 0] == names.index(order[0])
        assert converted("pc59", tmp_path, tmp_path / "out")[1]["reused"] == 1
        os.utime(tmp_path / "out" / "labels" / "a.png", (time.time() - 60, time.time() - 60))


def test_labels_of_another_benchmark_are_not_continued(tmp_path: Path) -> None:
    draw_voc(tmp_path, {"a": spread([3])})
    draw_stuff(tmp_path, {"a": spread([3])})
    convert("pas20", tmp_path, tmp_path / "out", allow_missing=True)
    with pytest.raises(OvsegError, match=re.escape(str(tmp_path / "out"))):
        convert("cocostuff", tmp_path, tmp_path / "out", allow_missing=True)
    assert read_benchmark(tmp_path / "out").items == (("a.jpg", "a.png"),)


def test_worker_processes_give_the_same(six: Path) -> None:
    damage(six)
    one = convert("ade150", six, six / "one", allow_missing=True)
    assert one == convert("ade150", six, six / "two", workers=2, allow_missing=True)
    for name in ("benchmark.json", "items.tsv", "labels/ADE_val_6.png"):
        assert (six / "one" / name).read_bytes() == (six / "two" / name).read_bytes()


# real samples --------------------------------------------------------------------------------------------------------


def link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(source)


def test_real_pairs_of_ade150(tmp_path: Path) -> None:
    for path in real(ADE / "sceneparse150_val").iterdir():
        link(path, tmp_path / ("images" if path.suffix == ".jpg" else "annotations") / "validation" / path.name)
    found, counts = converted("ade150", tmp_path, tmp_path / "out")
    published = [json.loads(line) for line in (ADE / "validation.odgt").read_text().splitlines()]
    sizes = {Path(one["fpath_img"]).name: (one["height"], one["width"]) for one in published}
    for name, labels in found.items():
        raw = np.asarray(Image.open(ADE / "sceneparse150_val" / name.replace("jpg", "png"))).astype(int)
        assert np.array_equal(labels, np.where(raw == 0, 255, raw - 1)) and labels.shape == sizes[name]
    assert counts["images"] == 3 and len(sizes) == BENCHMARKS["ade150"].images


@pytest.mark.parametrize("index", [False, True])
def test_real_full_annotations_of_ade20k(index: bool, tmp_path: Path) -> None:
    """Where the visible part of an instance lies, its class is the one of the name that the JSON gives it, or ignored."""
    home = tmp_path / "ADE20K_2021_17_01"
    objects: dict[int, str] = {}
    for path in real(FULL).glob("*.*"):
        link(path, home / "images" / "ADE" / "validation" / "urban" / "street" / path.name)
    wanted = {}
    place = {", ".join(one.names): i for i, one in enumerate(table("ade847"))}
    for path in FULL.glob("*.json"):
        about = json.loads(path.read_text())["annotation"]
        labels = np.full(about["imsize"][:2], 65535, np.int32)
        objects |= {one["name_ndx"]: one["name"] for one in about["object"]}
        for one in about["object"]:
            if one["parts"]["part_level"] == 0:
                labels[np.asarray(Image.open(FULL / one["instance_mask"])) == 255] = place[one["name"]]
        wanted[path.stem] = labels
    if index:
        write_index(tmp_path, objects)
    found, counts = converted("ade847", tmp_path, tmp_path / "out")
    differ = 0
    for name, labels in found.items():
        whole = Image.fromarray(wanted[Path(name).stem])
        differ += int((labels != np.asarray(whole.resize(labels.shape[::-1], Image.Resampling.NEAREST))).sum())
        assert min(labels.shape) == 512
    assert counts["images"] == 3 and differ < 1e-4 * counts["pixels"]  # slivers that no instance mask shows
    known = [name for name in objects.values() if name in place]
    assert (len(objects), len(known)) == (40, 29)


def test_the_official_conversion_to_150_takes_the_pixel_under_the_centre() -> None:
    """red // 10 * 256 + green is the class, and the short side is 512: so it is in a pair that was converted by its makers."""
    folder = real(ADE / "convert_pair")
    lookup = np.zeros(4000, np.uint16)
    for line in (folder / "mapFromADE.txt").read_text().splitlines():
        number, raw = map(int, line.split())
        lookup[raw] = number
    whole = read_seg((folder / "ADE_train_00000970_raw.png").read_bytes(), lookup)
    small = shrink(np.zeros((*whole.shape, 3), np.uint8), whole, 512)
    challenge = np.asarray(Image.open(folder / "ADE_train_00000970_challenge.png"))
    assert small is not None and np.array_equal(small[1], challenge)


def test_real_pairs_of_voc(tmp_path: Path) -> None:
    for path in real(PAIRS).glob("*/*"):
        link(path, tmp_path / "VOC2012" / path.parent.name / path.name)
    text(tmp_path / "VOC2012/ImageSets/Segmentation/val.txt", sorted(path.stem for path in PAIRS.glob("*/*.png")))
    found, counts = converted("voc", tmp_path, tmp_path / "out")
    for name, labels in found.items():
        raw = np.asarray(Image.open(PAIRS / "SegmentationClassAug" / name.replace("jpg", "png"))).astype(int)
        assert np.array_equal(labels, np.where((raw == 0) | (raw == 255), 255, raw - 1))
    assert counts["images"] == 16 and not [name for name in counts if name.startswith("dropped.")]


def test_real_samples_of_pascal_context_agree_with_voc(tmp_path: Path) -> None:
    """The colours are numbers of the class table: VOC's own masks of the same images cover the same things."""
    for path in real(CONTEXT).iterdir():
        link(path, tmp_path / ("JPEGImages" if path.suffix == ".jpg" else "trainval") / path.name)
    names = sorted(path.stem for path in CONTEXT.glob("*.jpg"))
    text(tmp_path / "pascalcontext_val.txt", names)
    text(tmp_path / "59_labels.txt", [f"{number}: {name}" for number, name in enumerate(RELEASE_59, start=1)])
    found, _ = converted("pc59", tmp_path, tmp_path / "out")
    place = {one.names[0]: i for i, one in enumerate(table("pc59"))}
    shares = []
    for name in names:
        raw = np.asarray(Image.open(PAIRS / "SegmentationClassAug" / f"{name}.png"))
        large = [one for one in table("pas20") if (raw == one.id).sum() > 500]
        shares += [(found[f"{name}.jpg"][raw == one.id] == place[one.names[0]]).mean() for one in large]
    assert len(found) == 4 and len(shares) == 5 and min(shares) > 0.9


def test_real_maps_of_coco_stuff_agree_with_the_things_of_coco(tmp_path: Path) -> None:
    """Each value is the class that its id names; where COCO's panoptic masks show a thing, the name is the same."""
    for path in real(STUFF).iterdir():
        link(path, tmp_path / "stuffthingmaps" / "val2017" / path.name)
        link(STUFF.parent / "images" / f"{path.stem}.jpg", tmp_path / "val2017" / f"{path.stem}.jpg")
    found, counts = converted("cocostuff", tmp_path, tmp_path / "out")
    names = [one.names[0] for one in table("cocostuff")]
    by_id = {255: ""} | {one.id: one.names[0] for one in table("cocostuff")}
    for name, labels in found.items():
        values = np.asarray(Image.open(STUFF / name.replace("jpg", "png")))
        for value in np.unique(values).tolist():
            assert [names[i] for i in np.unique(labels[values == value]) if i != 255] == [by_id[value]] * (value != 255)
    about = json.loads((STUFF.parent / "panoptic.json").read_text())
    things = {one["id"]: one["name"] for one in about["categories"] if one["isthing"]}
    checked = 0
    for one in about["annotations"]:
        if (labels_here := found.get(one["file_name"].replace("png", "jpg"))) is not None:
            colours = np.asarray(Image.open(STUFF.parent / "panoptic" / one["file_name"])).astype(int) @ [1, 256, 65536]
            for segment in one["segments_info"]:
                if segment["category_id"] in things and (place := colours == segment["id"]).sum() > 500:
                    expected = names.index(things[segment["category_id"]])
                    assert (labels_here[place] == expected).mean() > 0.9
                    checked += 1
    assert counts["images"] == 10 and checked >= 2
