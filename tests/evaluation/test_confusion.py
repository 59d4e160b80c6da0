"""The confusion counts of an image equal numpy's count pixel by pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ovseg.evaluation.confusion import ClassTotals, class_totals, confusion


def count_pixels(gt: NDArray[Any], pred: NDArray[Any], num_classes: int, ignore: int) -> NDArray[np.int64]:
    """The matrix `[K + 1, K + 1]`, ground-truth class by predicted class, counted one pixel at a time."""
    matrix = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    for gt_class, pred_class in zip(gt.ravel().tolist(), pred.ravel().tolist(), strict=True):
        if gt_class != ignore:
            matrix[gt_class, pred_class] += 1
    return matrix


def confusion_matrix(gt: NDArray[Any], pred: NDArray[Any], num_classes: int, ignore: int) -> NDArray[np.int64]:
    """The same matrix by `confusion`, whose output is sorted and without empty entries."""
    index, pixels = confusion(gt, pred, num_classes, ignore)
    assert (np.diff(index) > 0).all() and (pixels > 0).all() and index.dtype == pixels.dtype == np.int64
    matrix = np.zeros((num_classes + 1) ** 2, np.int64)
    matrix[index] = pixels
    return matrix.reshape(num_classes + 1, num_classes + 1)


def label_maps(
    seed: int, num_classes: int, ignore: int, dtype: Any, size: tuple[int, int]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """A ground truth of runs with pixels that are not scored, and a prediction of classes and "others"."""
    rng = np.random.default_rng(seed)
    gt = np.repeat(rng.integers(0, num_classes, size), 3, axis=1).astype(dtype)
    gt[rng.random(gt.shape) < 0.1] = ignore
    pred = np.where(rng.random(gt.shape) < 0.5, gt, rng.integers(0, num_classes + 1, gt.shape))
    return gt, np.where(pred == ignore, num_classes, pred)


@pytest.mark.parametrize(
    ("num_classes", "ignore", "dtype"),
    [(5, 255, np.uint8), (255, 255, np.uint8), (254, 255, np.uint16), (847, 65535, np.uint16), (2, 65535, np.uint16)],
)
@pytest.mark.parametrize("pred_dtype", [np.int32, np.uint16, np.int64])
@pytest.mark.parametrize("size", [(1, 1), (1, 30), (20, 13)])
def test_it_equals_counting_pixel_by_pixel(
    num_classes: int, ignore: int, dtype: Any, pred_dtype: Any, size: tuple[int, int]
) -> None:
    gt, pred = label_maps(num_classes, num_classes, ignore, dtype, size)
    before = gt.copy()
    matrix = confusion_matrix(gt, pred.astype(pred_dtype), num_classes, ignore)
    assert np.array_equal(matrix, count_pixels(gt, pred, num_classes, ignore))
    assert np.array_equal(gt, before)


def test_it_equals_bincount_of_pairs() -> None:
    gt, pred = label_maps(0, 9, 255, np.uint8, (40, 40))
    scored = gt != 255
    expected = np.bincount(gt[scored].astype(np.int64) * 10 + pred[scored], minlength=100)
    assert np.array_equal(confusion_matrix(gt, pred, 9, 255).ravel(), expected)


@pytest.mark.parametrize("lengths", [[1], [1, 1], [1, 1, 1], [4, 1], [1, 4], [2, 3, 2]])
def test_runs_of_any_length_are_counted(lengths: list[int]) -> None:
    """The first run, the last one, and runs of one pixel, wherever a row ends."""
    gt = np.repeat(np.arange(len(lengths)), lengths).astype(np.uint8)
    for shape in ((1, -1), (-1, 1)):
        matrix = confusion_matrix(gt.reshape(shape), gt.reshape(shape).astype(np.int32), 4, 255)
        assert np.diag(matrix)[: len(lengths)].tolist() == lengths and matrix.sum() == sum(lengths)


def test_a_map_of_one_class_has_one_entry() -> None:
    index, pixels = confusion(np.full((6, 7), 2, np.uint8), np.full((6, 7), 1, np.int32), 3, 255)
    assert index.tolist() == [2 * 4 + 1] and pixels.tolist() == [42]


def test_others_is_a_prediction_that_is_never_correct() -> None:
    gt, pred = np.array([[0, 1, 1]], np.uint8), np.array([[2, 1, 2]], np.int32)
    index, pixels = confusion(gt, pred, 2, 255)
    totals = class_totals([index], [pixels], 2)
    assert totals.intersection.tolist() == [[0, 1]]
    assert totals.gt_area.tolist() == [[1, 2]]
    assert totals.pred_area.tolist() == [[0, 1]]


def test_without_scored_pixels_there_is_no_entry() -> None:
    index, pixels = confusion(np.full((3, 4), 255, np.uint8), np.zeros((3, 4), np.int32), 5, 255)
    assert len(index) == len(pixels) == 0
    assert class_totals([index], [pixels], 5).gt_area.tolist() == [[0] * 5]


@pytest.mark.parametrize("layout", [np.asfortranarray, lambda x: x[::-1, ::-1], lambda x: x[:, ::2], np.transpose])
def test_the_layout_in_memory_does_not_matter(layout: Any) -> None:
    gt, pred = label_maps(3, 5, 255, np.uint8, (12, 9))
    matrix = confusion_matrix(layout(gt), layout(pred), 5, 255)
    assert np.array_equal(matrix, confusion_matrix(layout(gt).copy("C"), layout(pred).copy("C"), 5, 255))


def test_totals_are_the_diagonal_and_the_margins_of_the_matrix() -> None:
    pairs = [label_maps(seed, 5, 255, np.uint8, (8, 8)) for seed in range(3)]
    counts = [confusion(*pair, 5, 255) for pair in pairs]
    totals = class_totals([index for index, _ in counts], [pixels for _, pixels in counts], 5)
    for i, pair in enumerate(pairs):
        matrix = count_pixels(*pair, 5, 255)
        assert np.array_equal(totals.intersection[i], np.diag(matrix)[:5])
        assert np.array_equal(totals.gt_area[i], matrix.sum(1)[:5])
        assert np.array_equal(totals.pred_area[i], matrix.sum(0)[:5])
    assert totals.sum().gt_area.tolist() == [totals.gt_area.sum(0).tolist()]
    assert isinstance(totals.sum(), ClassTotals) and totals.sum().intersection.shape == (1, 5)
