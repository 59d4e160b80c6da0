"""Images that their EXIF metadata turn, and masks that were drawn on the stored pixels: used as wished, counted, warned of."""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovseg.core import masks, tables
from ovseg.core.errors import BadItem, OvsegError
from ovseg.core.image_records import read_image_records
from ovseg.core.options import IndexOptions, Orientation, ProposeOptions
from ovseg.datasets.coco import find_image
from ovseg.engine.runtime import Runtime
from ovseg.mining.index import build_index
from ovseg.mining.propose import propose_masks

LONG, SHORT = 48, 32
BOX = (4, 6, 16, 10)  # x, y, width, height of the mask in the stored pixels; it is red on blue


def write_images(folder: Path, turned: dict[str, int], kind: str, square: bool = False) -> Path:
    """Images of the given EXIF orientations with one mask each, drawn on the stored pixels, in a COCO file."""
    height, width = (LONG, LONG) if square else (SHORT, LONG)
    x, y, w, h = BOX
    mask = np.zeros((height, width), bool)
    mask[y : y + h, x : x + w] = True
    pixels = np.where(mask[..., None], [255, 0, 0], [0, 0, 255]).astype(np.uint8)
    images, annotations = [], []
    folder.mkdir()
    for i, (name, orientation) in enumerate(turned.items(), start=1):
        exif = Image.Exif()
        if orientation != 1:
            exif[0x0112] = orientation
        Image.fromarray(pixels).save(folder / name, quality=95, exif=exif)
        images.append({"id": i, "file_name": name, "height": height, "width": width})
        segmentation: Any = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        if kind == "rle":
            segmentation = {"size": [height, width], "counts": masks.encode(mask).decode()}
        common = {"id": i, "image_id": i, "category_id": 1, "iscrowd": 0}
        annotations.append({**common, "segmentation": segmentation, "caption": "a star"})
    path = folder.with_suffix(".json")
    categories = [{"id": 1, "name": "star"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def mine(folder: Path, coco: Path, runtime: Runtime, orientation: Orientation) -> tuple[dict[str, int], dict[str, int]]:
    """The counts of index and propose, written to folders beside the images."""
    index, proposals = folder.with_name(f"index-{orientation}"), folder.with_name(f"proposals-{orientation}")
    counts = build_index(index, runtime, IndexOptions(images=folder, captions=coco, orientation=orientation))
    return counts, propose_masks(index, folder, proposals, runtime, ProposeOptions(source="ground_truth", path=coco))


def red_fractions(folder: Path, orientation: Orientation) -> list[float]:
    """How much of each mask is red in the pixels that are used: 1 if both have the same orientation."""
    fractions = []
    images = {
        image.image_id: image
        for part in tables.parts(folder.with_name(f"index-{orientation}"))
        for image in read_image_records(part, folder)
    }
    for row in tables.rows(folder.with_name(f"proposals-{orientation}"), "proposals"):
        mask = masks.decode(row["rle"], row["height"], row["width"])
        red = images[row["image_id"]].pixels[..., 0] > 128
        fractions.append(float(red[mask].mean()))
    return fractions


TURNED = {"a.jpg": 1, "b.jpg": 6, "c.jpg": 8, "d.png": 5}


@pytest.mark.parametrize("kind", ["rle", "polygon"])
def test_raw_masks_fit_raw_images(tmp_path: Path, runtime: Runtime, kind: str) -> None:
    """With orientation=raw every mask covers its object, and the rotated images are counted."""
    folder = tmp_path / "images"
    coco = write_images(folder, TURNED, kind)
    index, propose = mine(folder, coco, runtime, "raw")
    assert index["rotated"] == 3 and index["images"] == 4 and "rotated_other_size" not in index
    assert propose["proposals"] == 4 and red_fractions(folder, "raw") == [1.0] * 4
    step = json.loads((tmp_path / "index-raw" / "step.json").read_text())
    assert step["counts"]["rotated"] == 3


@pytest.mark.parametrize("kind", ["rle", "polygon"])
def test_raw_masks_of_turned_images_are_dropped_with_a_warning(
    tmp_path: Path, runtime: Runtime, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """With orientation=exif no mask is laid over other pixels in silence; both steps name the parameter."""
    folder = tmp_path / "images"
    coco = write_images(folder, TURNED, kind)
    with caplog.at_level(logging.WARNING):
        index, propose = mine(folder, coco, replace(runtime, max_dropped=1.0), "exif")
    assert index["rotated"] == index["rotated_other_size"] == 3
    assert propose["proposals"] == 1 and propose["dropped.other_orientation"] == 3
    assert red_fractions(folder, "exif") == [1.0]
    assert [r.message.split(":")[0] for r in caplog.records if "index.orientation" in r.message] == ["index", "propose"]


@pytest.mark.parametrize(("square", "turned"), [(True, 6), (False, 3), (False, 2), (True, 3)])
def test_where_sizes_cannot_tell_a_warning_says_what_is_done(
    tmp_path: Path, runtime: Runtime, caplog: pytest.LogCaptureFixture, square: bool, turned: int
) -> None:
    """Square images and those that are turned by 180 degrees or mirrored: the parameter decides, and is named."""
    folder = tmp_path / "images"
    coco = write_images(folder, {"a.jpg": 1, "b.jpg": turned}, "rle", square)
    with caplog.at_level(logging.WARNING):
        index, _ = mine(folder, coco, runtime, "exif")
    assert index["rotated"] == index["rotated_same_size"] == 1
    assert any("index.orientation to raw" in record.message for record in caplog.records)
    mine(folder, coco, runtime, "raw")
    assert red_fractions(folder, "raw") == [1.0, 1.0]


def test_masks_that_were_drawn_on_turned_images_are_rejected_by_raw(tmp_path: Path, runtime: Runtime) -> None:
    """The mistake the other way round has the same reason."""
    folder = tmp_path / "images"
    coco = write_images(folder, {"a.jpg": 6}, "rle")
    content = json.loads(coco.read_text())
    mask = np.ones((LONG, SHORT), bool)
    content["annotations"][0]["segmentation"] = {"size": [LONG, SHORT], "counts": masks.encode(mask).decode()}
    coco.write_text(json.dumps(content))
    with pytest.raises(OvsegError, match=r"other_orientation.*a\.jpg.*orientation=exif"):
        mine(folder, coco, runtime, "raw")
    assert mine(folder, coco, runtime, "exif")[1]["proposals"] == 1


def test_images_without_rotation_are_not_mentioned(
    tmp_path: Path, runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "images"
    coco = write_images(folder, {"a.jpg": 1, "b.png": 1}, "rle")
    with caplog.at_level(logging.WARNING):
        index, propose = mine(folder, coco, runtime, "exif")
    assert index == {"images": 2, "captions": 2} and propose == {"images": 2, "proposals": 2}
    assert not caplog.records


def test_an_orientation_that_cannot_be_read_is_noted_in_the_index(tmp_path: Path, runtime: Runtime) -> None:
    folder = tmp_path / "images"
    coco = write_images(folder, {"a.jpg": 1, "b.jpg": 99}, "rle")
    index, propose = mine(folder, coco, runtime, "exif")
    assert index["orientation_unreadable"] == 1 and index["images"] == propose["proposals"] == 2
    rows = list(tables.rows(tmp_path / "index-exif", "index", ["problem", "detail"]))
    assert [row["problem"] for row in rows] == [None, None] and "99" in rows[1]["detail"]


@pytest.mark.parametrize("orientation", ["exif", "raw"])
def test_held_out_images_have_the_same_parameter(tmp_path: Path, orientation: Orientation) -> None:
    """Their size is stated by the JSON: raw pixels have it, turned ones do not, and the reason says so."""
    folder = tmp_path / "images"
    coco = write_images(folder, {"a.jpg": 6}, "rle")
    record = json.loads(coco.read_text())["images"][0]
    counts: Counter[str] = Counter()
    image = find_image(folder, record, orientation, counts)
    assert counts["rotated"] == 1
    if orientation == "raw":
        assert image.pixels.shape == (SHORT, LONG, 3)
    else:
        with pytest.raises(BadItem, match="other_orientation"):
            _ = image.pixels
