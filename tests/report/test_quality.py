"""Mined nouns and pairs compared with the correct ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovseg.core import tables
from ovseg.core.errors import OvsegError
from ovseg.core.paths import to_path
from ovseg.proposals import Proposal
from ovseg.report import quality
from ovseg.report.quality import best_labels, noun_quality, pair_quality
from tests.report.conftest import BOXES, HEIGHT, PAIRS, WIDTH, MadeRun, rectangle, write_pairs


def gold(noun: str, visual: bool = True) -> dict[str, Any]:
    """A noun as the captions JSON marks it."""
    return {"noun": noun, "start": 0, "end": len(noun), "visual": visual}


def write_captions(path: Path, captions: list[tuple[int, int, list[dict[str, Any]] | None]]) -> Path:
    """A captions JSON of (image id, caption id, gold nouns or None)."""
    annotations = [
        {"image_id": image, "id": number, "caption": "words", **({} if nouns is None else {"nouns": nouns})}
        for image, number, nouns in captions
    ]
    images = [{"id": i, "file_name": f"{i}.png"} for i in sorted({image for image, _, _ in captions})]
    path.write_text(json.dumps({"images": images, "annotations": annotations}), encoding="utf-8")
    return path


def write_nouns(folder: Path, nouns_by_image: dict[int, list[str]]) -> Path:
    """A table `nouns`."""
    folder.mkdir(parents=True)
    rows = [
        {"image_id": i, "noun": noun, "caption_id": 1, "start": 0, "end": 1}
        for i, nouns in nouns_by_image.items()
        for noun in nouns
    ]
    tables.write_part(folder / "00000.parquet", "nouns", rows, "f")
    return folder


def test_precision_and_recall_count_distinct_visual_nouns_of_the_captions_that_were_read(tmp_path: Path) -> None:
    captions = write_captions(
        tmp_path / "captions.json",
        [
            (1, 9, [gold("bird")]),
            (1, 3, [gold("Dog"), gold("dog"), gold("ball"), gold("day", visual=False)]),
            (2, 5, [gold("cat")]),
        ],
    )
    nouns = write_nouns(tmp_path / "nouns", {1: ["dog", "day", "bird"], 2: ["cat"]})
    assert noun_quality(nouns, captions, 1) == {"noun_precision": 2 / 4, "noun_recall": 2 / 3}
    assert noun_quality(nouns, captions, "all") == {"noun_precision": 3 / 4, "noun_recall": 3 / 4}


def test_an_image_without_extracted_nouns_counts_and_an_unusable_one_does_not(made: MadeRun, tmp_path: Path) -> None:
    captions = write_captions(
        tmp_path / "captions.json", [(1, 1, [gold("dog")]), (2, 2, [gold("cat")]), (77, 3, [gold("x")])]
    )
    nouns = write_nouns(tmp_path / "nouns", {1: ["dog"]})
    assert noun_quality(nouns, captions, 1)["noun_recall"] == 1 / 3
    assert noun_quality(nouns, captions, 1, made[0] / "index")["noun_recall"] == 1 / 2


def test_captions_in_object_storage_have_the_quality_of_a_local_copy(tmp_path: Path) -> None:
    pytest.importorskip("upath")
    local = write_captions(tmp_path / "captions.json", [(1, 1, [gold("dog"), gold("ball")])])
    remote = to_path("memory://quality/captions.json")
    remote.write_bytes(local.read_bytes())
    nouns = write_nouns(tmp_path / "nouns", {1: ["dog"]})
    assert noun_quality(nouns, remote, 1) == noun_quality(nouns, local, 1) != {}


@pytest.mark.parametrize("marked", [None, "elsewhere"])
def test_captions_without_marked_nouns_have_no_quality(tmp_path: Path, marked: str | None) -> None:
    captions = write_captions(tmp_path / "captions.json", [(1, 1, None), (1, 2, [gold("dog")] if marked else None)])
    assert noun_quality(write_nouns(tmp_path / "nouns", {1: ["dog"]}), captions, 1) == {}
    assert noun_quality(tmp_path / "nouns", tmp_path, 1) == {}  # a folder of shards


def test_nothing_extracted_is_zero_not_an_error(tmp_path: Path) -> None:
    captions = write_captions(tmp_path / "captions.json", [(1, 1, [gold("dog")])])
    nouns = write_nouns(tmp_path / "nouns", {})
    assert noun_quality(nouns, captions, 1) == {"noun_precision": 0.0, "noun_recall": 0.0}


def segment(image_id: int, category_id: int, *box: int) -> dict[str, Any]:
    """A COCO annotation of a rectangle, as RLE."""
    counts = rectangle(*box).decode("ascii")
    return {
        "image_id": image_id,
        "category_id": category_id,
        "segmentation": {"size": [HEIGHT, WIDTH], "counts": counts},
    }


CATEGORIES: list[dict[str, Any]] = [
    {"id": 1, "name": "Bus", "annotated": True},
    {"id": 2, "name": "feline", "synonyms": ["cat"], "annotated": False},
    {"id": 3, "name": "dog", "annotated": True},
    {"id": 4, "name": "wall", "annotated": True},
]


def write_annotations(path: Path, annotations: list[dict[str, Any]], categories: list[dict[str, Any]]) -> Path:
    """COCO annotations of the four images of the made-up run."""
    images = [{"id": i, "file_name": f"{i}.png"} for i in range(1, 5)]
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories}), encoding="utf-8"
    )
    return path


def test_a_pair_is_correct_if_the_segment_under_its_mask_has_its_noun_as_name_or_synonym(
    made: MadeRun, tmp_path: Path
) -> None:
    x, y, w, h = BOXES[0]
    polygon = {"image_id": 1, "category_id": 1, "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]}
    annotations = [
        segment(3, 1, *BOXES[0]),  # bus: correct
        segment(3, 2, 0, 0, WIDTH, HEIGHT),  # a larger one that overlaps less
        segment(2, 2, *BOXES[0]),  # cat as the synonym of feline: correct
        segment(2, 3, *BOXES[1]),
        segment(4, 3, *BOXES[1]),  # cat: wrong, it is a dog
        segment(4, 2, *BOXES[0]),  # there is a cat, but not under the mask
        polygon,  # dog: wrong, it is a bus
    ]
    annotated = write_annotations(tmp_path / "annotations.json", annotations, CATEGORIES)
    run = made[0]
    assert pair_quality(run / "pairs", run / "proposals", annotated, tmp_path / "scratch") == {
        "pair_precision": 2 / 4,
        "pair_precision_annotated": 1 / 2,
        "pair_precision_not_annotated": 1 / 2,
        "pairs_in_vocabulary": 4 / 5,  # mat is not; the annotated pair is not mined
    }


def test_panoptic_annotations_judge_a_pair_as_instances_do(made: MadeRun, tmp_path: Path) -> None:
    boxes = {3: [(1, BOXES[0])], 2: [(2, BOXES[0]), (3, BOXES[1])], 4: [(3, BOXES[1])]}  # category, box
    instances = [segment(image, category, *box) for image, segments in boxes.items() for category, box in segments]
    records = []
    for image, segments in boxes.items():
        ids = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        for category, (x, y, width, height) in segments:
            ids[y : y + height, x : x + width, 0] = category
        (tmp_path / "panoptic").mkdir(exist_ok=True)
        Image.fromarray(ids).save(tmp_path / "panoptic" / f"{image}.png")
        infos = [{"id": category, "category_id": category} for category, _ in segments]
        records.append({"image_id": image, "file_name": f"{image}.png", "segments_info": infos})
    files = [
        write_annotations(tmp_path / "instances.json", instances, CATEGORIES),
        write_annotations(tmp_path / "panoptic.json", records, CATEGORIES),
    ]
    by_instances, by_panoptic = (pair_quality(made[0] / "pairs", made[0] / "proposals", f, tmp_path) for f in files)
    assert by_panoptic == by_instances
    assert by_panoptic["pair_precision"] == 2 / 3


def test_without_the_flag_there_is_one_precision_and_unjudged_images_are_left_out(
    made: MadeRun, tmp_path: Path
) -> None:
    plain = [{k: v for k, v in category.items() if k != "annotated"} for category in CATEGORIES]
    annotated = write_annotations(tmp_path / "annotations.json", [segment(3, 1, *BOXES[0])], plain)
    fractions = pair_quality(made[0] / "pairs", made[0] / "proposals", annotated, tmp_path / "scratch")
    assert fractions == {"pair_precision": 1.0, "pairs_in_vocabulary": 4 / 5}


@pytest.mark.parametrize(("images", "precision"), [(1, 0.0), (2, 1 / 2), (4, 1 / 4)])
def test_of_many_images_some_are_judged_at_equal_distances(
    made: MadeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: int, precision: float
) -> None:
    monkeypatch.setattr(quality, "IMAGES_JUDGED", images)
    labels = {1: 1, 2: 1, 3: 1, 4: 3}  # the dog of image 1, the cats of 2 and 4, and the bus of 3, which alone is one
    annotated = write_annotations(
        tmp_path / "a.json", [segment(image, label, 0, 0, WIDTH, HEIGHT) for image, label in labels.items()], CATEGORIES
    )
    assert pair_quality(made[0] / "pairs", made[0] / "proposals", annotated, tmp_path)["pair_precision"] == precision


def test_changed_annotations_are_read_again_in_the_same_scratch_folder(made: MadeRun, tmp_path: Path) -> None:
    results = []
    for category in (1, 3):
        annotated = write_annotations(tmp_path / "annotations.json", [segment(3, category, *BOXES[0])], CATEGORIES)
        results.append(pair_quality(made[0] / "pairs", made[0] / "proposals", annotated, tmp_path)["pair_precision"])
    assert results == [1.0, 0.0]


def test_annotated_pairs_alone_have_no_quality(made: MadeRun, tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs", [PAIRS[5]])
    annotated = write_annotations(tmp_path / "annotations.json", [segment(1, 4, *BOXES[1])], CATEGORIES)
    assert pair_quality(pairs, made[0] / "proposals", annotated, tmp_path) == {}


def test_annotations_that_are_no_coco_file_are_an_error(made: MadeRun, tmp_path: Path) -> None:
    (tmp_path / "annotations.json").write_text("{}", encoding="utf-8")
    with pytest.raises(OvsegError, match=r"annotations\.json"):
        pair_quality(made[0] / "pairs", made[0] / "proposals", tmp_path / "annotations.json", tmp_path)


def test_a_mask_has_both_labels_of_equal_overlaps_and_none_without_overlap() -> None:
    region = {"rle": rectangle(10, 10, 10, 10), "height": HEIGHT, "width": WIDTH}
    both = [Proposal(rectangle(10, 10, 10, 5), 1.0, "a"), Proposal(rectangle(10, 15, 10, 5), 1.0, "b")]
    assert best_labels([region], both) == [{"a", "b"}]
    assert best_labels([region], [Proposal(rectangle(40, 20, 5, 5), 1.0, "a")]) == [set()]


def test_a_segment_that_cannot_be_read_judges_no_pair(made: MadeRun, tmp_path: Path) -> None:
    broken = {"image_id": 4, "category_id": 3, "segmentation": {"size": [1, 1], "counts": "0"}}
    annotated = write_annotations(tmp_path / "annotations.json", [segment(3, 1, *BOXES[0]), broken], CATEGORIES)
    assert pair_quality(made[0] / "pairs", made[0] / "proposals", annotated, tmp_path)["pair_precision"] == 1.0
