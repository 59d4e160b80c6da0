"""The two oracles: perfect masks with perfect names are a perfect map, and each is its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ovseg.core import masks
from ovseg.evaluation.confusion import confusion, totals
from ovseg.evaluation.metrics import metrics
from ovseg.evaluation.oracles import gt_masks, oracle_scores, relabel
from ovseg.segmentation.compose import compose

K = 7


def labels_of(kind: type = np.uint8, ignore: int = 255) -> NDArray[np.unsignedinteger]:
    labels = np.kron([[0, 3, 3], [5, 0, ignore]], np.ones((8, 10), np.int64))
    labels[10:12, 3:9] = 6
    return labels.astype(kind)


def miou(labels: NDArray[np.unsignedinteger], guess: NDArray[np.integer], ignore: int = 255) -> dict[str, float]:
    cells, pixels = confusion(labels, guess, K, ignore)
    return metrics(totals([cells], [pixels], K))


@pytest.mark.parametrize(("kind", "ignore"), [(np.uint8, 255), (np.uint16, 65535)])
def test_true_masks_with_true_names_are_a_perfect_map(kind: type, ignore: int) -> None:
    """Through the very composition that a segmentation goes through."""
    labels = labels_of(kind, ignore)
    classes, rles = gt_masks(labels, ignore)
    assert classes == [0, 3, 5, 6]
    scores = oracle_scores(rles, labels, ignore, K)
    assert torch.equal(scores, torch.eye(K, dtype=torch.float64)[classes])
    logits = torch.stack([torch.from_numpy(np.where(masks.decode(rle, *labels.shape), 20.0, -20.0)) for rle in rles])
    guess, _ = compose(scores, logits, labels.shape, *labels.shape)
    assert set(miou(labels, guess, ignore).values()) == {1.0}


def test_the_masks_of_a_map_are_its_classes_and_not_what_is_ignored() -> None:
    labels = labels_of()
    classes, rles = gt_masks(labels, 255)
    for value, rle in zip(classes, rles, strict=True):
        assert np.array_equal(masks.decode(rle, *labels.shape), labels == value)
    assert gt_masks(np.full((3, 4), 255, np.uint8), 255) == ([], [])


def test_true_masks_named_rightly_are_a_perfect_map_and_named_wrongly_are_not() -> None:
    labels = labels_of()
    classes, _ = gt_masks(labels, 255)
    assert miou(labels, relabel(labels, classes, classes, K))["miou"] == 1
    guess = relabel(labels, classes, [0, 3, 3, 6], K)
    assert np.array_equal(guess, np.where(labels == 255, K, np.where(labels == 5, 3, labels)))
    right = {k: (labels == k).sum() for k in (0, 3, 5, 6)}
    assert miou(labels, guess)["miou"] == pytest.approx((1 + right[3] / (right[3] + right[5]) + 0 + 1) / 4)


def test_where_nothing_is_named_nothing_is_guessed() -> None:
    labels = np.full((3, 4), 255, np.uint8)
    assert (relabel(labels, [], [], K) == K).all()
    assert (relabel(np.full((3, 4), 65535, np.uint16), [], [], 847) == 847).all()


def test_a_proposal_gets_the_class_that_it_overlaps_most_by_intersection_over_union() -> None:
    """12 of its 16 pixels are of class 0, but it holds all of class 6: 4 / 16 is more than 12 / 160."""
    labels = np.zeros((16, 10), np.uint8)
    labels[4:6, 4:6] = 6
    proposal = np.zeros(labels.shape, bool)
    proposal[3:7, 3:7] = True
    scores = oracle_scores([masks.encode(proposal)], labels, 255, K)
    assert scores.tolist() == [[0, 0, 0, 0, 0, 0, 1]]


def test_of_an_empty_proposal_and_one_that_overlaps_nothing_scored_nothing_is_said() -> None:
    labels = labels_of()
    outside = np.zeros(labels.shape, bool)
    outside[9:, 22:] = True
    assert not oracle_scores([None, masks.encode(outside)], labels, 255, K).any()
    assert oracle_scores([], labels, 255, K).shape == (0, K)


def test_what_is_not_scored_does_not_count_in_a_proposal() -> None:
    """6 of the 12 pixels of class 6 and 10 of the 68 of class 5: 6 / 22 is more than 10 / 74. With the 80 pixels that
    nobody scores it would be 6 / 102, which is less than 10 / 154."""
    labels = labels_of()
    proposal = np.zeros(labels.shape, bool)
    proposal[8:, 20:] = proposal[10:12, 3:6] = proposal[8, :10] = True
    assert int(oracle_scores([masks.encode(proposal)], labels, 255, K)[0].argmax()) == 6


def test_two_proposals_may_have_the_same_name() -> None:
    labels = np.zeros((8, 8), np.uint8)
    labels[:, 4:] = 2
    halves = [np.zeros((8, 8), bool) for _ in range(2)]
    halves[0][:4, 4:], halves[1][4:, 4:] = True, True
    assert oracle_scores([masks.encode(half) for half in halves], labels, 255, K)[:, 2].tolist() == [1, 1]
