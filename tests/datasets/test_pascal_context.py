"""Pascal Context: 59 and 459 classes pixel by pixel, in drawn files with every trap, and in real samples if they are there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg.core.errors import OvsegError
from ovseg.datasets.official import convert
from ovseg.datasets.pascal_context import palette
from tests.datasets.drawn_releases import (
    CONTEXT,
    PAIRS,
    RELEASE_59,
    SIZE,
    converted,
    draw_context,
    link,
    mat,
    photo,
    png,
    real,
    spread,
    table,
    text,
)


def test_all_459_of_pascal_context(tmp_path: Path) -> None:
    """LabelMap less 1, in 16 bits; class 255 is a class, and 0 is ignored."""
    values = spread(range(460), np.uint16, (20, 23))
    draw_context(tmp_path, {"2008_1": values})
    labels_of_image, counts = converted("pc459", tmp_path, tmp_path / "out")
    assert np.array_equal(labels_of_image["2008_1.jpg"], np.where(values == 0, 65535, values.astype(int) - 1))
    assert Image.open(tmp_path / "out" / "labels" / "2008_1.png").mode.startswith("I") and counts["classes"] == 459


def test_59_of_pascal_context_by_the_names_of_the_release(tmp_path: Path) -> None:
    """What is none of the 59 is ignored; the release's "table" is the "diningtable" of the usual list."""
    values = spread(range(460), np.uint16, (20, 23))
    home = draw_context(tmp_path, {"2008_1": values})
    labels_of_image, counts = converted("pc59", tmp_path, tmp_path / "out")
    names = {
        one.id: one.names[0].replace("table", "diningtable") if one.id == 397 else one.names[0]
        for one in table("pc459")
    }
    place = {one.names[0]: i for i, one in enumerate(table("pc59"))}
    wanted = np.vectorize(lambda value: place.get(names.get(value, ""), 255))(values)
    assert np.array_equal(labels_of_image["2008_1.jpg"], wanted) and counts["classes"] == 59
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
    labels_of_image, _ = converted("pc59", tmp_path, tmp_path / "out")
    places = [255, *(names.index(name.replace("table", "diningtable") if name == "table" else name) for name in order)]
    assert np.array_equal(labels_of_image["2008_1.jpg"], np.array(places)[values])


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


def test_real_samples_of_pascal_context_agree_with_voc(tmp_path: Path) -> None:
    """The colours are numbers of the class table: VOC's own masks of the same images cover the same things."""
    for path in real(CONTEXT).iterdir():
        link(path, tmp_path / ("JPEGImages" if path.suffix == ".jpg" else "trainval") / path.name)
    names = sorted(path.stem for path in CONTEXT.glob("*.jpg"))
    text(tmp_path / "pascalcontext_val.txt", names)
    text(tmp_path / "59_labels.txt", [f"{number}: {name}" for number, name in enumerate(RELEASE_59, start=1)])
    labels_of_image, _ = converted("pc59", tmp_path, tmp_path / "out")
    place = {one.names[0]: i for i, one in enumerate(table("pc59"))}
    shares = []
    for name in names:
        raw = np.asarray(Image.open(PAIRS / "SegmentationClassAug" / f"{name}.png"))
        large = [one for one in table("pas20") if (raw == one.id).sum() > 500]
        shares += [(labels_of_image[f"{name}.jpg"][raw == one.id] == place[one.names[0]]).mean() for one in large]
    assert len(labels_of_image) == 4 and len(shares) == 5 and min(shares) > 0.9
