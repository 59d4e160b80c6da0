"""Annotated masks as a source: COCO instances, COCO panoptic, and folders of label maps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovseg.core.image_records import ImageRecord
from ovseg.proposals.ground_truth import annotated_images, ground_truth
from tests.conftest import SHARED
from tests.proposals.coco_files import IMAGE, LEFT, RIGHT, H, Row, W, coco_file, pixels, rle, split


def test_instances_in_every_form(tmp_path: Path) -> None:
    """Polygons, compressed and uncompressed RLE are read; class names are given only if they are requested."""
    path = coco_file(
        tmp_path / "i.json",
        [
            {"image_id": 3, "category_id": 1, "segmentation": [[1, 2, 7, 2, 7, 9, 1, 9]]},
            {"image_id": 3, "category_id": 2, "segmentation": rle(LEFT)},
            {"image_id": 3, "category_id": 2, "segmentation": rle(RIGHT, "runs")},
            {"image_id": 4, "category_id": 2, "segmentation": rle(RIGHT)},
        ],
    )
    proposals, reasons = split(ground_truth(path, tmp_path / "s")(IMAGE))
    assert reasons == [] and [p.label for p in proposals] == [None] * 3 and [p.score for p in proposals] == [1.0] * 3
    for proposal, mask in zip(proposals, (LEFT, LEFT, RIGHT), strict=True):
        assert np.array_equal(pixels(proposal), mask)
    named, _ = split(ground_truth(path, tmp_path / "s2", labels=True)(IMAGE))
    assert [p.label for p in named] == ["Dog", "grass", "grass"]


def test_an_annotation_that_is_no_mask_has_a_reason_and_the_others_stay(tmp_path: Path) -> None:
    """Crowds, malformed masks and malformed scores."""
    bad: list[Row] = [
        {"iscrowd": 1, "segmentation": rle(LEFT)},
        {"segmentation": rle(np.zeros((H, W), bool))},
        {"segmentation": rle(LEFT.T)},
        {"segmentation": {"size": [H, W], "counts": "o"}},
        {"segmentation": [[1, 2]]},
        {},
        {"segmentation": rle(LEFT), "score": None},
        {"segmentation": rle(LEFT), "score": "high"},
        {"segmentation": rle(LEFT), "score": "Infinity"},
        {"segmentation": rle(LEFT), "category_id": None},
        {"segmentation": rle(LEFT), "category_id": 3},
    ]
    good: Row = {"segmentation": rle(RIGHT), "category_id": "2", "score": "1"}
    path = coco_file(tmp_path / "i.json", [{"image_id": 3, **row} for row in [*bad, good]])
    proposals, reasons = split(ground_truth(path, tmp_path / "s", labels=True)(IMAGE))
    assert reasons == [
        "crowd",
        "empty_mask",
        "rle_size",
        "rle_malformed",
        "polygon_malformed",
        "polygon_malformed",
        "score_malformed",
        "score_malformed",
        "score_malformed",
        "unknown_category",
        "unknown_category",
    ]
    assert len(proposals) == 1 and np.array_equal(pixels(proposals[0]), RIGHT) and proposals[0].label == "grass"


def panoptic(folder: Path, segments: Any, ids: Any = None, **more: Any) -> Path:
    (folder / "p").mkdir(exist_ok=True)
    ids = np.where(LEFT, 7, np.where(RIGHT, 70_000, 0)) if ids is None else ids
    colors = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
    Image.fromarray(colors).save(folder / "p" / "a.png")
    return coco_file(folder / "p.json", [{"image_id": 3, "file_name": "a.png", "segments_info": segments, **more}])


def test_panoptic_segments_are_read_from_their_png(tmp_path: Path) -> None:
    """Ids use all three channels; a segment without pixels or without an id has a reason."""
    segments = [
        {"id": 7, "category_id": 1},
        {"id": 70_000, "category_id": 2},
        {"id": 5, "category_id": 1},
        {"category_id": 1},
        "x",
    ]
    proposals, reasons = split(ground_truth(panoptic(tmp_path, segments), tmp_path / "s", labels=True)(IMAGE))
    assert [p.label for p in proposals] == ["Dog", "grass"] and reasons == [
        "empty_mask",
        "segment_malformed",
        "segment_malformed",
    ]
    assert np.array_equal(pixels(proposals[0]), LEFT) and np.array_equal(pixels(proposals[1]), RIGHT)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"file_name": "gone.png"}, "missing_mask_file"),
        ({"file_name": "../p.json"}, "unsafe_path"),
        ({"file_name": None}, "missing_mask_file"),
    ],
)
def test_a_panoptic_file_that_cannot_be_read_has_a_reason(more: Row, reason: str, tmp_path: Path) -> None:
    proposals, reasons = split(ground_truth(panoptic(tmp_path, [{"id": 7}], **more), tmp_path / "s")(IMAGE))
    assert proposals == [] and reasons == [reason]


def test_a_panoptic_file_of_another_size_has_a_reason(tmp_path: Path) -> None:
    path = panoptic(tmp_path, [{"id": 7}], ids=np.zeros((H, W + 1), int))
    assert split(ground_truth(path, tmp_path / "s")(IMAGE)) == ([], ["mask_size"])


@pytest.mark.parametrize("mode", ["L", "P"])
def test_label_maps_have_a_mask_for_each_class(mode: str, tmp_path: Path) -> None:
    """Each label of the class table is a mask with the name of that class; the colors of a palette do not matter."""
    values = np.where(LEFT, 3, np.where(RIGHT, 155, 255)).astype(np.uint8)
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette([5] * 768)
    image.save(tmp_path / "a.png")
    (tmp_path / "classes.json").write_text(
        json.dumps({"classes": [{"id": 3, "names": ["car", "auto"]}, {"id": 155, "names": ["wood"]}]})
    )
    proposals, reasons = split(ground_truth(tmp_path, tmp_path, labels=True)(IMAGE))
    assert [p.label for p in proposals] == ["car", "wood"] and reasons == []
    assert np.array_equal(pixels(proposals[0]), LEFT) and np.array_equal(pixels(proposals[1]), RIGHT)


def test_a_given_class_table_takes_precedence_over_that_of_the_folder(tmp_path: Path) -> None:
    Image.fromarray(np.full((H, W), 3, np.uint8)).save(tmp_path / "a.png")
    for name in ("classes", "other"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"classes": [{"id": 3, "names": [name]}]}))
    for table, label in ((None, "classes"), (tmp_path / "other.json", "other")):
        proposals, _ = split(ground_truth(tmp_path, tmp_path / "s", labels=True, classes=table)(IMAGE))
        assert [proposal.label for proposal in proposals] == [label]


@pytest.mark.parametrize("name", ["a.PNG", "a.tif", "a.bmp"])
def test_label_maps_have_the_name_of_their_image_but_any_suffix(name: str, tmp_path: Path) -> None:
    """What a file system left beside them is no label map."""
    Image.fromarray(np.where(LEFT, 3, 255).astype(np.uint8)).save(tmp_path / name)
    (tmp_path / f"._{name}").write_bytes(b"x")
    proposals, reasons = split(ground_truth(tmp_path, tmp_path / "s")(IMAGE))
    assert len(proposals) == 1 and np.array_equal(pixels(proposals[0]), LEFT) and reasons == []


@pytest.mark.parametrize(("place", "member"), [("x/a.png", "x/a.jpg"), ("a.png", "x/a.jpg"), ("x/a.png", "a.jpg")])
def test_the_label_map_of_an_image_in_a_shard_has_the_name_of_the_image(
    place: str, member: str, tmp_path: Path
) -> None:
    """Not that of the tar, which is the same for all of its images; folders have to agree where label maps have them."""
    (tmp_path / place).parent.mkdir(exist_ok=True)
    Image.fromarray(np.where(LEFT, 3, 255).astype(np.uint8)).save(tmp_path / place)
    Image.fromarray(np.full((H, W), 9, np.uint8)).save(tmp_path / "shard.png")
    image = replace(IMAGE, file="shard.tar", member=member)
    proposals, reasons = split(ground_truth(tmp_path, tmp_path / "s")(image))
    if place.count("/") > member.count("/"):
        assert (proposals, reasons) == ([], ["missing_mask_file"])
    else:
        assert np.array_equal(pixels(proposals[0]), LEFT) and reasons == []


def test_a_label_map_that_cannot_be_read_has_a_reason(tmp_path: Path) -> None:
    source = ground_truth(tmp_path, tmp_path)
    assert split(source(IMAGE)) == ([], ["missing_mask_file"])
    Image.new("RGB", (W, H)).save(tmp_path / "a.png")
    assert split(source(IMAGE)) == ([], ["not_labels"])
    (tmp_path / "a.png").write_bytes(b"x")
    assert split(source(IMAGE)) == ([], ["not_an_image"])


def test_real_coco_annotations_agree_with_each_other(tmp_path: Path) -> None:
    """In real files of COCO the panoptic PNGs and their RLEs are the same masks."""
    folder = SHARED / "minicoco"
    if not folder.is_dir():
        pytest.skip("../shared/data/minicoco is not there")
    records = json.loads((folder / "panoptic.json").read_text(encoding="utf-8"))["annotations"][:3]
    by_png = ground_truth(folder / "panoptic.json", tmp_path / "a")
    by_rle = ground_truth(folder / "segments_from_panoptic.json", tmp_path / "b")
    for record in records:
        height, width = np.asarray(Image.open(folder / "panoptic" / record["file_name"])).shape[:2]
        image = ImageRecord(folder / "images", record["image_id"], "", 0, 0, width, height)
        from_png, from_rle = ({p.rle for p in split(source(image))[0]} for source in (by_png, by_rle))
        assert from_png == from_rle and from_png


def test_images_without_annotations_or_label_map_are_told_apart(tmp_path: Path) -> None:
    others = [IMAGE, replace(IMAGE, image_id=9, file="b.jpg")]
    path = coco_file(tmp_path / "i.json", [{"image_id": 3, "category_id": 1, "segmentation": rle(LEFT)}])
    assert annotated_images(path, tmp_path / "s", others) == [IMAGE]
    (tmp_path / "maps").mkdir()
    Image.fromarray(np.full((H, W), 3, np.uint8)).save(tmp_path / "maps" / "b.png")
    assert annotated_images(tmp_path / "maps", tmp_path / "s", others) == others[1:]
