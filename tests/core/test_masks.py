"""Masks as RLE: round trips, agreement with pycocotools, and input that must never reach it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from ovseg.core import masks
from ovseg.core.errors import BadItem
from tests.conftest import SHARED

H, W = 6, 7
any_mask = st.tuples(st.integers(1, 20), st.integers(1, 20)).flatmap(lambda size: arrays(bool, size))
json_value = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def rle(counts: Any, size: Any = (H, W)) -> dict[str, Any]:
    return {"size": list(size) if isinstance(size, tuple) else size, "counts": counts}


@given(any_mask)
def test_a_mask_comes_back_from_its_rle(mask: masks.MaskArray) -> None:
    """Encoding and decoding is the identity, and area and box are those of the pixels."""
    counts, size = masks.encode(mask), mask.shape
    assert np.array_equal(masks.decode(counts, *size), mask)
    assert masks.area(counts, *size) == mask.sum()
    ys, xs = np.nonzero(mask)
    tight = (xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1) if len(xs) else (0, 0, 0, 0)
    assert masks.box(counts, *size) == tight


@given(any_mask)
def test_every_form_of_an_rle_gives_the_same_bytes(mask: masks.MaskArray) -> None:
    """Compressed bytes, text, runs, and runs with empty ones among them become the RLE of pycocotools."""
    mask.flat[0] = True
    size, counts = mask.shape, masks.encode(mask)
    runs = masks.run_lengths(counts)
    split = [part for run in runs[:-1] for part in (run, 0, 0)] + [runs[-1], 0]
    for form in (counts, counts.decode(), runs, split):
        assert masks.from_coco(rle(form, size), *size) == counts


@given(st.lists(st.integers(0, 9), min_size=1, max_size=9))
def test_empty_runs_do_not_move_the_box(runs: list[int]) -> None:
    """pycocotools computes a wrong box if a run has no pixel; ours is the box of the pixels."""
    pixels = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    if not pixels.any():
        return
    height = next(h for h in (4, 3, 2, 1) if len(pixels) % h == 0)
    size = (height, len(pixels) // height)
    mask = pixels.reshape(size[::-1]).T
    counts = masks.from_coco(rle(runs, size), *size)
    assert np.array_equal(masks.decode(counts, *size), mask)
    assert masks.box(counts, *size) == masks.box(masks.encode(mask), *size)


@given(arrays(bool, (8, 9)), arrays(bool, (8, 9)))
def test_the_iou_matrix_is_intersection_over_union(a: masks.MaskArray, b: masks.MaskArray) -> None:
    iou = masks.iou_matrix([masks.encode(a), masks.encode(b)], 8, 9)
    union = (a | b).sum()
    assert iou[0, 1] == pytest.approx((a & b).sum() / union if union else 0)
    assert masks.iou_matrix([], 8, 9).shape == (0, 0)


def test_runs_are_those_of_pycocotools() -> None:
    """Checking reads the same runs from real RLEs as pycocotools does."""
    path = SHARED / "cocoapi_vectors" / "instances_val2014_fakesegm100_results.json"
    if not path.is_file():
        pytest.skip("real RLEs are not there: ../shared/data/cocoapi_vectors")
    for record in json.loads(path.read_text(encoding="utf-8")):
        size, counts = record["segmentation"]["size"], record["segmentation"]["counts"]
        assert masks.from_coco(record["segmentation"], *size) == counts.encode()
        runs = masks.run_lengths(counts.encode())
        assert coco.frPyObjects({"size": size, "counts": runs}, *size)["counts"] == counts.encode()


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        (rle("", (H, W)), "rle_size"),
        (rle("o"), "rle_malformed"),  # the text ends within a number
        (rle("é1"), "rle_malformed"),
        (rle("\ud83d"), "rle_malformed"),
        (rle("\x00"), "rle_malformed"),
        (rle("~~~"), "rle_malformed"),
        (rle("ooooooooooooooooo1"), "rle_malformed"),
        (rle("N"), "rle_malformed"),  # -2
        (rle([-1, H * W + 1]), "rle_malformed"),
        (rle([1.5, H * W - 1.5]), "rle_malformed"),
        (rle([None]), "rle_malformed"),
        (rle(["a"]), "rle_malformed"),
        (rle([2**70]), "rle_size"),
        (rle([H * W + 1]), "rle_size"),
        (rle([3, 4]), "rle_size"),
        (rle([]), "rle_size"),
        (rle([H * W]), "empty_mask"),
        (rle([H * W, 0]), "empty_mask"),
        (rle([0, H * W], (W, H)), "rle_size"),
        (rle([0, H * W], None), "rle_size"),
        (rle([0, H * W], "67"), "rle_size"),
        (rle([0, H * W], [None, 3]), "rle_size"),
        (rle([0, H * W], 42), "rle_size"),
        (rle(None), "rle_malformed"),
        (rle(7), "rle_malformed"),
        ({}, "rle_size"),
        (None, "polygon_malformed"),
        ("polygon", "polygon_malformed"),
        ([], "polygon_malformed"),
        ([[]], "polygon_malformed"),
        ([[0, 0, 3, 3]], "polygon_malformed"),
        ([[0, 0, 3, 3, 1]], "polygon_malformed"),
        ([[0, 0, 3, 3, "a", 1]], "polygon_malformed"),
        ([[0, 0, 3, 3, float("nan"), 1]], "polygon_malformed"),
        ([[0, 0, 3, 3, float("inf"), 1]], "polygon_malformed"),
        ([[0, 0, 1e12, 0, 1e12, 1e12]], "polygon_malformed"),
        ([[1, 1, 1, 1, 1, 1]], "empty_mask"),
    ],
)
def test_a_malformed_mask_is_rejected_with_its_reason(segmentation: Any, reason: str) -> None:
    """Malformed, negative, truncated, of the wrong size, empty: each has its reason, and none reaches pycocotools."""
    with pytest.raises(BadItem) as caught:
        masks.from_coco(segmentation, H, W)
    assert caught.value.reason == reason


@settings(max_examples=500)
@given(st.binary(max_size=20))
def test_random_counts_never_crash(counts: bytes) -> None:
    """Any bytes are either rejected, or a mask of the right size with an area."""
    try:
        checked = masks.from_coco(rle(counts), H, W)
    except BadItem:
        return
    mask = masks.decode(checked, H, W)
    assert mask.shape == (H, W) and mask.sum() == masks.area(checked, H, W) > 0


@settings(max_examples=300)
@given(json_value, json_value)
def test_random_json_never_crashes(size: Any, counts: Any) -> None:
    """Any JSON in the place of a segmentation gives a mask or a BadItem."""
    for segmentation in (size, rle(counts), rle(counts, size), [counts], {"counts": counts}):
        try:
            checked = masks.from_coco(segmentation, H, W)
        except BadItem:
            continue
        assert masks.area(checked, H, W) > 0


def test_polygons_are_those_of_pycocotools() -> None:
    """Several polygons are one mask, and corners a little outside the image are clipped to its edge."""
    polygons: list[list[float]] = [[1, 1, 4, 1, 4, 4, 1, 4], [5, 4, 9, 4, 9, 9, 5.5, 9]]
    expected = coco.decode(coco.merge(coco.frPyObjects(polygons, H, W))).astype(bool)
    mask = masks.decode(masks.from_coco(polygons, H, W), H, W)
    assert np.array_equal(mask, expected) and mask.any()
