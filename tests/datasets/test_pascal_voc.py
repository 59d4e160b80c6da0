"""Pascal VOC: 20 classes pixel by pixel, in drawn files with every trap, and in real samples if they are there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg.core.errors import OvsegError
from ovseg.datasets.benchmark import read_benchmark
from ovseg.datasets.official import convert
from ovseg.datasets.pascal_context import palette
from tests.datasets.drawn_releases import PAIRS, converted, draw_voc, link, real, spread, text


@pytest.mark.parametrize("name", ["pas20", "voc"])
@pytest.mark.parametrize("folder", ["SegmentationClassAug", "SegmentationClass"])
def test_background_and_borders_of_voc_are_not_scored(name: str, folder: str, tmp_path: Path) -> None:
    """Grey or with a palette; an image of background alone is left out and counted, and is no fault."""
    values, empty = spread([*range(21), 255]), spread([0, 255])
    draw_voc(
        tmp_path, {"2007_1": values, "2007_2": empty}, palette() if folder == "SegmentationClass" else None, folder
    )
    labels_of_image, counts = converted(name, tmp_path, tmp_path / "out")
    assert np.array_equal(
        labels_of_image["2007_1.jpg"], np.where(values == 0, 255, np.where(values == 255, 255, values.astype(int) - 1))
    )
    assert list(labels_of_image) == ["2007_1.jpg"] and counts["dropped.unscored"] == 1 and counts["images"] == 1
    assert (read_benchmark(tmp_path / "out").seen is None) == (name == "pas20")


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


def test_real_pairs_of_voc(tmp_path: Path) -> None:
    for path in real(PAIRS).glob("*/*"):
        link(path, tmp_path / "VOC2012" / path.parent.name / path.name)
    text(tmp_path / "VOC2012/ImageSets/Segmentation/val.txt", sorted(path.stem for path in PAIRS.glob("*/*.png")))
    labels_of_image, counts = converted("voc", tmp_path, tmp_path / "out")
    for name, labels in labels_of_image.items():
        raw = np.asarray(Image.open(PAIRS / "SegmentationClassAug" / name.replace("jpg", "png"))).astype(int)
        assert np.array_equal(labels, np.where((raw == 0) | (raw == 255), 255, raw - 1))
    assert counts["images"] == 16 and not [name for name in counts if name.startswith("dropped.")]
