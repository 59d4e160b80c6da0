"""ADE20K: 150 and 847 classes pixel by pixel, in drawn files with every trap, and in real samples if they are there."""

from __future__ import annotations

import json
import os
import pickle
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovseg.core.errors import OvsegError
from ovseg.datasets.ade20k import read_index, read_seg, shrink
from ovseg.datasets.benchmark import read_benchmark
from ovseg.datasets.official import BENCHMARKS, convert
from tests.datasets.drawn_releases import (
    ADE,
    FULL,
    OBJECTS,
    PLACES,
    SIZE,
    converted,
    draw_ade150,
    draw_ade847,
    link,
    real,
    rng,
    spread,
    table,
    write_index,
)


def test_ade150_counts_from_one_and_zero_is_not_scored(tmp_path: Path) -> None:
    values = spread(range(151), size=(16, 20))
    draw_ade150(tmp_path, {"ADE_val_00000001": values})
    labels_of_image, counts = converted("ade150", tmp_path, tmp_path / "out")
    wanted = np.where(values == 0, 255, values.astype(int) - 1)
    assert np.array_equal(labels_of_image["ADE_val_00000001.jpg"], wanted)
    assert counts["classes"] == 150 and counts["ignored_pixels"] == (values == 0).sum() and counts["pixels"] == 320
    assert read_benchmark(tmp_path / "out").seen is None


@pytest.mark.parametrize("index", [False, True])
def test_847_of_ade20k_by_name_whatever_their_numbers(index: bool, tmp_path: Path) -> None:
    """Names compare without case, doubled apostrophes and stray blanks; other objects, parts and 0 are ignored."""
    values = spread([0, *OBJECTS], np.uint16)
    draw_ade847(tmp_path, {"ADE_val_1": values})
    if index:
        write_index(tmp_path)
    labels_of_image, counts = converted("ade847", tmp_path, tmp_path / "out")
    wanted = np.vectorize(lambda value: PLACES.get(value, 65535))(values)
    assert np.array_equal(labels_of_image["urban/street/ADE_val_1.jpg"], wanted)
    assert counts["classes"] == 4 and sorted(PLACES.values())[-1] == 65535


def test_short_sides_above_512_become_512_and_no_other_image_changes(tmp_path: Path) -> None:
    """The new labels are those under the centre of each new pixel; the images are JPEGs in the benchmark's own folder."""
    numbers = [0, *OBJECTS]
    sizes = {"big": (600, 801), "tall": (900, 513), "even": (512, 700), "small": SIZE}
    maps = {name: rng.choice(numbers, size).astype(np.uint16) for name, size in sizes.items()}
    folder = draw_ade847(tmp_path, maps)
    labels_of_image, _ = converted("ade847", tmp_path, tmp_path / "out")
    shapes = {Path(name).stem: labels.shape for name, labels in labels_of_image.items()}
    assert shapes == {"big": (512, 684), "tall": (898, 512), "even": (512, 700), "small": SIZE}
    for name, labels in labels_of_image.items():
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


def test_a_json_that_is_missing_or_broken_drops_its_image(tmp_path: Path) -> None:
    folder = draw_ade847(tmp_path, {name: spread([5], np.uint16) for name in "abc"})
    (folder / "a.json").unlink()
    (folder / "b.json").write_text('{"annotation": {"object": [3]}}')
    counts = converted("ade847", tmp_path, tmp_path / "out")[1]
    assert counts["images"] == counts["dropped.missing"] == counts["dropped.bad_json"] == 1


def test_real_pairs_of_ade150(tmp_path: Path) -> None:
    for path in real(ADE / "sceneparse150_val").iterdir():
        link(path, tmp_path / ("images" if path.suffix == ".jpg" else "annotations") / "validation" / path.name)
    labels_of_image, counts = converted("ade150", tmp_path, tmp_path / "out")
    published = [json.loads(line) for line in (ADE / "validation.odgt").read_text().splitlines()]
    sizes = {Path(one["fpath_img"]).name: (one["height"], one["width"]) for one in published}
    for name, labels in labels_of_image.items():
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
    labels_of_image, counts = converted("ade847", tmp_path, tmp_path / "out")
    differ = 0
    for name, labels in labels_of_image.items():
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
