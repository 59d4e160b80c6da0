"""Each metric equals its formula, written out for one class after the other."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from ovseg.evaluation.confusion import ClassTotals, class_totals, confusion
from ovseg.evaluation.metrics import bootstrap_intervals, ious, segmentation_metrics

K = 6


def label_maps(
    seed: int = 0, images: int = 4, absent: tuple[int, ...] = ()
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Ground truth and prediction `[N, H, W]`; two of three pixels are correct, and absent classes are only predicted."""
    rng = np.random.default_rng(seed)
    gt = rng.choice([k for k in range(K) if k not in absent], (images, 10, 12)).astype(np.uint8)
    pred = np.where(rng.random(gt.shape) < 0.67, gt, rng.integers(0, K, gt.shape)).astype(np.int32)
    gt[rng.random(gt.shape) < 0.1] = 255
    return gt, pred


def totals_of(gt: NDArray[np.uint8], pred: NDArray[np.int32]) -> ClassTotals:
    counts = [confusion(g, p, K, 255) for g, p in zip(gt, pred, strict=True)]
    return class_totals([index for index, _ in counts], [pixels for _, pixels in counts], K)


def written_out(gt: NDArray[np.uint8], pred: NDArray[np.int32], seen: list[bool]) -> dict[str, float]:
    """All metrics, with sets of pixels."""
    scored = gt != 255
    gt, pred = gt[scored], pred[scored]
    iou, accuracy, fraction = {}, {}, {}
    for k in range(K):
        both, either = ((gt == k) & (pred == k)).sum(), ((gt == k) | (pred == k)).sum()
        if either:
            iou[k] = both / either
        if (gt == k).any():
            accuracy[k], fraction[k] = both / (gt == k).sum(), (gt == k).mean()
    miou = sum(iou[k] for k in fraction) / len(iou)  # over the classes with ground truth or prediction
    s, u = ([iou[k] for k in iou if seen[k] == flag] for flag in (True, False))
    in_gt = {name: [iou[k] for k in fraction if seen[k] == flag] for name, flag in (("seen", True), ("unseen", False))}
    seen_, unseen = sum(s) / len(s), sum(u) / len(u)
    return {
        "miou": miou,
        "miou_gt": sum(iou[k] for k in fraction) / len(fraction),
        "fwiou": sum(iou[k] * fraction[k] for k in fraction),
        "macc": sum(accuracy.values()) / len(accuracy),
        "pacc": float((gt == pred).mean()),
        "miou_seen": seen_,
        "miou_unseen": unseen,
        "hiou": 2 * seen_ * unseen / (seen_ + unseen),
        **{f"miou_gt_{name}": sum(values) / len(values) for name, values in in_gt.items() if values},
    }


SEEN = [True, False, True, True, False, False]


@pytest.mark.parametrize("absent", [(), (4,), (0, 5), (1, 4, 5)])
def test_every_metric_is_its_formula(absent: tuple[int, ...]) -> None:
    gt, pred = label_maps(absent=absent)
    computed = segmentation_metrics(totals_of(gt, pred), np.array(SEEN))
    assert computed == pytest.approx(written_out(gt, pred, SEEN), abs=1e-12)


def test_the_rules_differ_by_classes_that_are_predicted_but_not_in_the_ground_truth() -> None:
    """Class 2 is only predicted, class 3 does not occur: one rule divides by three classes, the other by two."""
    gt, pred = np.array([[[0, 0, 1, 1]]], np.uint8), np.array([[[0, 2, 1, 1]]], np.int32)
    computed = segmentation_metrics(totals_of(gt, pred))
    assert computed["miou"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert computed["miou_gt"] == pytest.approx((1 / 2 + 1) / 2)
    assert (computed["fwiou"], computed["macc"], computed["pacc"]) == pytest.approx((3 / 4, 3 / 4, 3 / 4))


def test_a_class_that_does_not_occur_counts_for_neither_rule() -> None:
    gt = np.array([[[0, 1]]], np.uint8)
    computed = segmentation_metrics(totals_of(gt, gt.astype(np.int32)))
    assert computed["miou"] == computed["miou_gt"] == 1
    totals = totals_of(gt, gt.astype(np.int32))
    assert [math.isnan(iou) for iou in ious(totals.intersection[0], totals.gt_area[0], totals.pred_area[0])] == [
        False
    ] * 2 + [True] * 4


def test_predictions_on_unscored_pixels_count_for_neither_rule() -> None:
    gt, pred = np.array([[[0, 255]]], np.uint8), np.array([[[0, 3]]], np.int32)
    assert segmentation_metrics(totals_of(gt, pred)) == dict.fromkeys(("miou", "miou_gt", "fwiou", "macc", "pacc"), 1.0)


def test_a_perfect_prediction_is_1_by_every_metric() -> None:
    gt, _ = label_maps(absent=(3,))
    computed = segmentation_metrics(totals_of(gt, gt.astype(np.int32)), np.array(SEEN))
    by_seen = {"miou_seen", "miou_unseen", "hiou", "miou_gt_seen", "miou_gt_unseen"}
    assert set(computed) == {"miou", "miou_gt", "fwiou", "macc", "pacc"} | by_seen
    assert set(computed.values()) == {1.0}


def test_all_wrong_is_0_by_every_metric() -> None:
    gt, _ = label_maps()
    computed = segmentation_metrics(totals_of(gt, np.full(gt.shape, K, np.int32)), np.array(SEEN))
    assert set(computed.values()) == {0.0}


def test_images_are_scored_together_and_not_one_by_one() -> None:
    gt, pred = label_maps(images=5)
    computed = segmentation_metrics(totals_of(gt, pred))
    assert computed == pytest.approx(segmentation_metrics(totals_of(gt.reshape(1, 50, 12), pred.reshape(1, 50, 12))))
    assert computed == pytest.approx(segmentation_metrics(totals_of(gt, pred).sum()))
    alone = [segmentation_metrics(totals_of(gt[i : i + 1], pred[i : i + 1]))["miou"] for i in range(5)]
    assert computed["miou"] != pytest.approx(np.mean(alone))


def test_seen_and_unseen_are_left_out_where_there_is_no_such_class() -> None:
    gt, pred = label_maps()
    for flags in ([True] * K, [False] * K):
        computed = segmentation_metrics(totals_of(gt, pred), np.array(flags))
        assert "hiou" not in computed
        assert ("miou_seen" in computed, "miou_unseen" in computed) == (flags[0], not flags[0])
        assert computed["miou_seen" if flags[0] else "miou_unseen"] == pytest.approx(computed["miou"])
        assert ("miou_gt_seen" in computed, "miou_gt_unseen" in computed) == (flags[0], not flags[0])


def test_a_group_of_classes_that_is_only_predicted_has_no_figure_by_the_rule_of_the_ground_truth() -> None:
    gt, pred = np.array([[[0, 0]]], np.uint8), np.array([[[0, 1]]], np.int32)
    computed = segmentation_metrics(totals_of(gt, pred), np.array(SEEN))
    assert computed["miou_unseen"] == 0 and "miou_gt_unseen" not in computed
    assert computed["miou_gt_seen"] == 0.5


def test_nothing_scored_gives_no_metric() -> None:
    assert (
        segmentation_metrics(
            totals_of(np.full((2, 3, 3), 255, np.uint8), np.zeros((2, 3, 3), np.int32)), np.array(SEEN)
        )
        == {}
    )


def test_intervals_hold_the_metric_and_come_from_the_seed_alone() -> None:
    totals = totals_of(*label_maps(images=30))
    computed = bootstrap_intervals(totals, 300, seed=1)
    point = segmentation_metrics(totals)
    for name, (low, high) in computed.items():
        assert low < point[name] < high and high - low < 0.2
    assert computed == bootstrap_intervals(totals, 300, seed=1) and computed != bootstrap_intervals(totals, 300, seed=2)
    narrow = bootstrap_intervals(totals, 300, seed=1, level=0.5)
    assert all(computed[n][0] < narrow[n][0] < narrow[n][1] < computed[n][1] for n in ("miou", "miou_gt"))


def test_intervals_follow_their_definition() -> None:
    """Images drawn with replacement, the metric of each draw, and its quantiles."""
    gt, pred = label_maps(images=5, absent=(2,))
    draws = np.random.default_rng(0).multinomial(5, [0.2] * 5, 40)
    values: dict[str, list[float]] = {"miou": [], "miou_gt": []}
    for draw in draws:
        again = segmentation_metrics(totals_of(np.repeat(gt, draw, axis=0), np.repeat(pred, draw, axis=0)))
        for name, computed in values.items():
            computed.append(again[name])
    expected = {name: np.quantile(computed, [0.025, 0.975]) for name, computed in values.items()}
    for name, ends in bootstrap_intervals(totals_of(gt, pred), 40).items():
        assert ends == pytest.approx(tuple(expected[name]))


def test_the_interval_of_one_image_is_a_point() -> None:
    totals = totals_of(*label_maps(images=1))
    assert bootstrap_intervals(totals, 20)["miou"] == pytest.approx((segmentation_metrics(totals)["miou"],) * 2)


def test_images_without_a_scored_pixel_leave_the_interval_as_it_is() -> None:
    gt, pred = label_maps(images=8)
    gt[0] = 255
    low, high = bootstrap_intervals(totals_of(gt, pred), 200)["miou"]
    assert 0 < low < high < 1


def test_nothing_scored_gives_no_interval() -> None:
    totals = totals_of(np.full((2, 3, 3), 255, np.uint8), np.zeros((2, 3, 3), np.int32))
    assert bootstrap_intervals(totals, 10) == {}
