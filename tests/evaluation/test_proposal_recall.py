"""Recall of proposals: its formula, and what it is of true masks, of nothing, and of halves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovseg.core import masks
from ovseg.core.errors import BadItem, OvsegError
from ovseg.core.image_records import ImageRecord
from ovseg.evaluation.proposal_recall import measure_recall, recalls
from ovseg.proposals import Proposal, Source
from tests.conftest import Coco
from tests.toys import noise

W, H = 40, 30


def block(x: int, y: int, w: int, h: int) -> masks.MaskArray:
    mask = np.zeros((H, W), bool)
    mask[y : y + h, x : x + w] = True
    return mask


STAR, TWIN, KEY = block(0, 0, 10, 10), block(20, 0, 10, 10), block(0, 15, 20, 10)


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """Two stars and a key in image 1, a star in image 2; of image 3 there is no file. Stars are annotated."""
    for number in (1, 2):
        Image.fromarray(noise(number, H, W)).save(tmp_path / f"{number}.png")
    images = [{"id": number, "file_name": f"{number}.png", "width": W, "height": H} for number in (1, 2, 3)]
    annotations: list[Any] = [
        {
            "id": i,
            "image_id": image_id,
            "category_id": kind,
            "iscrowd": 0,
            "segmentation": {"size": [H, W], "counts": masks.encode(mask).decode()},
        }
        for i, (image_id, kind, mask) in enumerate([(1, 1, STAR), (1, 1, TWIN), (1, 2, KEY), (2, 1, STAR), (3, 2, KEY)])
    ]
    categories = [{"id": 1, "name": "star", "annotated": True}, {"id": 2, "name": "key", "annotated": False}]
    path = tmp_path / "truth.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def always(*proposals: masks.MaskArray) -> Source:
    """A source of the same masks in every image, and of one that cannot be used."""

    def source(_: ImageRecord) -> Iterator[Proposal | BadItem]:
        yield from (Proposal(masks.encode(mask), 1.0) for mask in proposals)
        yield BadItem("crowd", "no proposal")

    return source


def test_recall_is_its_formula_written_out() -> None:
    overlaps = np.array([1.0, 0.95, 0.8, 0.75, 0.5, 0.49, 0.0])
    limits = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
    annotated = np.array([True, False, True, False, True, False, True])
    scores = recalls(overlaps, annotated)
    for suffix, chosen in (("", annotated | True), ("_annotated", annotated), ("_not_annotated", ~annotated)):
        group = overlaps[chosen]
        assert scores[f"ar{suffix}"] == pytest.approx(np.mean([(group >= limit).mean() for limit in limits]))
        assert scores[f"recall_50{suffix}"] == pytest.approx((group >= 0.5).mean())
        assert scores[f"recall_75{suffix}"] == pytest.approx((group >= 0.75).mean())
    assert recalls(overlaps).keys() == {"ar", "recall_50", "recall_75"}
    assert recalls(overlaps, np.ones(7, bool)).keys() == {
        "ar",
        "recall_50",
        "recall_75",
        "ar_annotated",
        "recall_50_annotated",
        "recall_75_annotated",
    }


@pytest.mark.parametrize("limit", [0.5, 0.55, 0.6, 0.7, 0.75, 0.95])
def test_an_overlap_at_a_limit_reaches_it(limit: float) -> None:
    scores = recalls(np.array([limit]))
    assert scores["ar"] == pytest.approx((round((limit - 0.5) / 0.05) + 1) / 10)


def test_masks_of_a_class_are_taken_together_and_true_ones_are_all_found(truth: Path, tmp_path: Path) -> None:
    scores = measure_recall(always(STAR | TWIN, KEY, STAR), tmp_path, truth)
    assert scores["ar"] == scores["recall_50_annotated"] == scores["recall_75_not_annotated"] == 1.0
    assert (scores["masks"], scores["proposals"]) == (3.0, 6.0)  # of two images; the third is gone


def test_half_of_a_class_is_found_at_half(truth: Path, tmp_path: Path) -> None:
    """The one star of two is an IoU of 0.5; alone in its image it is all; of the key there is nothing."""
    scores = measure_recall(always(STAR), tmp_path, truth)
    assert scores["recall_50"] == pytest.approx(2 / 3) and scores["recall_75"] == pytest.approx(1 / 3)
    assert scores["recall_50_annotated"] == 1.0 and scores["recall_50_not_annotated"] == 0.0
    assert scores["ar"] == pytest.approx((0.1 + 1 + 0) / 3)


def test_of_no_proposal_nothing_is_found(truth: Path, tmp_path: Path) -> None:
    scores = measure_recall(always(), tmp_path, truth)
    assert {value for name, value in scores.items() if name != "masks"} == {0.0}


def test_a_limit_takes_the_first_images(truth: Path, tmp_path: Path) -> None:
    assert measure_recall(always(KEY), tmp_path, truth, 1)["masks"] == 2.0


def test_without_flags_there_is_one_group(coco: Coco) -> None:
    scores = measure_recall(always(), coco.images, coco.instances)
    assert scores.keys() == {"ar", "recall_50", "recall_75", "masks", "proposals"}


def test_a_truth_of_which_nothing_can_be_read_is_refused(truth: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(OvsegError, match=r"truth\.json.*elsewhere"):
        measure_recall(always(STAR), tmp_path / "elsewhere", truth)


def test_most_images_missing_is_an_error_however_many_masks_the_others_have(truth: Path, tmp_path: Path) -> None:
    (tmp_path / "2.png").unlink()
    with pytest.raises(OvsegError, match=r"2 of 3 images \(67%\) were dropped for the reason image_missing.*image 2"):
        measure_recall(always(STAR), tmp_path, truth)
