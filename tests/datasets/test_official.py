"""Conversion of official releases: what is counted, what is dropped and why, and how it continues after a stop."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg.cli import app
from ovseg.cli.entry import exit_code
from ovseg.core.errors import OvsegError
from ovseg.datasets import official
from ovseg.datasets.benchmark import read_benchmark
from ovseg.datasets.classes import CLASS_TABLES
from ovseg.datasets.official import BENCHMARKS, convert, published
from tests.datasets.drawn_releases import (
    SIZE,
    Array,
    converted,
    draw_ade150,
    draw_context,
    draw_stuff,
    draw_voc,
    labels_of,
    png,
    spread,
    table,
    text,
)

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


@pytest.mark.parametrize("name", BENCHMARKS)
def test_what_is_declared_is_what_was_published(name: str) -> None:
    one = BENCHMARKS[name]
    assert (len(table(name)), one.images, one.ignore) == PUBLISHED[name]
    assert json.loads((CLASS_TABLES / f"{name}.json").read_text())["ignore"] == one.ignore
    unseen = {"voc": 5, "cocostuff156": 15}.get(name, 0)
    assert sum(not entry.seen for entry in table(name)) == unseen


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
    labels_of_image, counts = converted("ade150", six, six / "out")
    assert list(labels_of_image) == ["ADE_val_6.jpg"] and counts["reused"] == 1
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
    counts = json.loads((six / "out" / "counts.json").read_text())
    assert (counts["images"], counts["classes"], counts["dropped.missing"]) == (1, 2, 2)
    assert counts["published"]["images"] == 6


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_has_published_numbers(name: str) -> None:
    """Of the 459 classes of Pascal Context, 345 occur in the 5,104 images."""
    classes, images, _ = PUBLISHED[name]
    assert published(name) == {"images": images, "classes": 345 if name == "pc459" else classes}


def test_the_command_prints_the_counts_beside_the_published_ones(
    six: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ovseg", "convert-benchmark", "ade150", str(six), str(six / "out")])
    assert exit_code(app.app) == 0
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
    labels_of_image = labels_of(read_benchmark(six / "out"))
    assert (labels_of_image["ADE_val_2.jpg"] == 76).all() and set(np.unique(labels_of_image["ADE_val_3.jpg"])) == {
        2,
        149,
    }


def test_labels_that_other_code_has_made_are_made_again(six: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert("ade150", six, six / "out")
    with monkeypatch.context() as patch:
        patch.setattr(official, "code_of", lambda _: {"datasets/ade20k.py": "another hash"})
        assert convert("ade150", six, six / "out")["reused"] == 0
        assert convert("ade150", six, six / "out")["reused"] == 6
    assert convert("ade150", six, six / "out")["reused"] == 0


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
        labels_of_image, counts = converted("pc59", tmp_path, tmp_path / "out")
        assert counts["reused"] == 0 and labels_of_image["a.jpg"][0, 0] == names.index(order[0])
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
