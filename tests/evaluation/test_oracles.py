"""The two oracles: perfect masks with correct classes give a perfect map, and each oracle equals its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ovseg.core import masks
from ovseg.evaluation.confusion import class_totals, confusion
from ovseg.evaluation.metrics import segmentation_metrics
from ovseg.evaluation.oracles import gt_masks, oracle_scores, relabel
from ovseg.segmentation.semantic_map import semantic_maps

K = 7


def label_map(dtype: type = np.uint8, ignore: int = 255) -> NDArray[np.unsignedinteger]:
    labels = np.kron([[0, 3, 3], [5, 0, ignore]], np.ones((8, 10), np.int64))
    labels[10:12, 3:9] = 6
    return labels.astype(dtype)


def metrics_of(labels: NDArray[np.unsignedinteger], pred: NDArray[np.integer], ignore: int = 255) -> dict[str, float]:
    index, pixels = confusion(labels, pred, K, ignore)
    return segmentation_metrics(class_totals([index], [pixels], K))


@pytest.mark.parametrize(("dtype", "ignore"), [(np.uint8, 255), (np.uint16, 65535)])
def test_ground_truth_masks_with_correct_classes_give_a_perfect_map(dtype: type, ignore: int) -> None:
    """Composed to a map by the function that a segmentation uses."""
    labels = label_map(dtype, ignore)
    classes, rles = gt_masks(labels, ignore)
    assert classes == [0, 3, 5, 6]
    scores = oracle_scores(rles, labels, ignore, K)
    assert torch.equal(scores, torch.eye(K, dtype=torch.float64)[classes])
    logits = torch.stack([torch.from_numpy(np.where(masks.decode(rle, *labels.shape), 20.0, -20.0)) for rle in rles])
    ((pred, _),) = semantic_maps([scores], logits, labels.shape, *labels.shape)
    assert set(metrics_of(labels, pred, ignore).values()) == {1.0}


def test_a_map_has_a_mask_for_each_class_and_none_for_ignored_pixels() -> None:
    labels = label_map()
    classes, rles = gt_masks(labels, 255)
    for value, rle in zip(classes, rles, strict=True):
        assert np.array_equal(masks.decode(rle, *labels.shape), labels == value)
    assert gt_masks(np.full((3, 4), 255, np.uint8), 255) == ([], [])


def test_a_relabeled_map_is_perfect_only_with_correct_classes() -> None:
    labels = label_map()
    classes, _ = gt_masks(labels, 255)
    assert metrics_of(labels, relabel(labels, classes, classes, K))["miou"] == 1
    pred = relabel(labels, classes, [0, 3, 3, 6], K)
    assert np.array_equal(pred, np.where(labels == 255, K, np.where(labels == 5, 3, labels)))
    area = {k: (labels == k).sum() for k in (0, 3, 5, 6)}
    assert metrics_of(labels, pred)["miou"] == pytest.approx((1 + area[3] / (area[3] + area[5]) + 0 + 1) / 4)


def test_a_map_without_classes_gets_the_fill_value() -> None:
    labels = np.full((3, 4), 255, np.uint8)
    assert (relabel(labels, [], [], K) == K).all()
    assert (relabel(np.full((3, 4), 65535, np.uint16), [], [], 847) == 847).all()


def test_a_proposal_gets_the_class_with_the_largest_intersection_over_union() -> None:
    """12 of its 16 pixels belong to class 0, but it contains all of class 6: 4 / 16 is more than 12 / 160."""
    labels = np.zeros((16, 10), np.uint8)
    labels[4:6, 4:6] = 6
    proposal = np.zeros(labels.shape, bool)
    proposal[3:7, 3:7] = True
    scores = oracle_scores([masks.encode(proposal)], labels, 255, K)
    assert scores.tolist() == [[0, 0, 0, 0, 0, 0, 1]]


def test_an_empty_proposal_and_one_on_ignored_pixels_have_no_class() -> None:
    labels = label_map()
    outside = np.zeros(labels.shape, bool)
    outside[9:, 22:] = True
    assert not oracle_scores([None, masks.encode(outside)], labels, 255, K).any()
    assert oracle_scores([], labels, 255, K).shape == (0, K)


def test_pixels_that_are_not_scored_do_not_count_as_part_of_a_proposal() -> None:
    """6 of the 12 pixels of class 6 and 10 of the 68 of class 5: 6 / 22 is more than 10 / 74. With the 80 pixels
    that are not scored it would be 6 / 102, which is less than 10 / 154."""
    labels = label_map()
    proposal = np.zeros(labels.shape, bool)
    proposal[8:, 20:] = proposal[10:12, 3:6] = proposal[8, :10] = True
    assert int(oracle_scores([masks.encode(proposal)], labels, 255, K)[0].argmax()) == 6


def test_two_proposals_may_have_the_same_class() -> None:
    labels = np.zeros((8, 8), np.uint8)
    labels[:, 4:] = 2
    halves = [np.zeros((8, 8), bool) for _ in range(2)]
    halves[0][:4, 4:], halves[1][4:, 4:] = True, True
    assert oracle_scores([masks.encode(half) for half in halves], labels, 255, K)[:, 2].tolist() == [1, 1]
