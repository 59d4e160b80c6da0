"""The metrics, each by its formula (METHODS 5.2) written out for one class after the other."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from ovseg.evaluation.confusion import Totals, confusion, totals
from ovseg.evaluation.metrics import intervals, ious, metrics

K = 6


def some(seed: int = 0, images: int = 4, absent: tuple[int, ...] = ()) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Truth and guess `[N, H, W]`; the guess is right in two of three pixels, and some classes are never true."""
    rng = np.random.default_rng(seed)
    truth = rng.choice([k for k in range(K) if k not in absent], (images, 10, 12)).astype(np.uint8)
    guess = np.where(rng.random(truth.shape) < 0.67, truth, rng.integers(0, K, truth.shape)).astype(np.int32)
    truth[rng.random(truth.shape) < 0.1] = 255
    return truth, guess


def totals_of(truth: NDArray[np.uint8], guess: NDArray[np.int32]) -> Totals:
    found = [confusion(t, g, K, 255) for t, g in zip(truth, guess, strict=True)]
    return totals([cells for cells, _ in found], [pixels for _, pixels in found], K)


def written_out(truth: NDArray[np.uint8], guess: NDArray[np.int32], seen: list[bool]) -> dict[str, float]:
    """All metrics, with sets of pixels."""
    scored = truth != 255
    truth, guess = truth[scored], guess[scored]
    iou, accuracy, share = {}, {}, {}
    for k in range(K):
        both, either = ((truth == k) & (guess == k)).sum(), ((truth == k) | (guess == k)).sum()
        if either:
            iou[k] = both / either
        if (truth == k).any():
            accuracy[k], share[k] = both / (truth == k).sum(), (truth == k).mean()
    old = sum(iou[k] for k in share) / len(iou)  # sum over true classes / number of true or guessed ones
    s, u = ([iou[k] for k in iou if seen[k] == flag] for flag in (True, False))
    seen_, unseen = sum(s) / len(s), sum(u) / len(u)
    return {
        "miou": old,
        "miou_gt": sum(iou[k] for k in share) / len(share),
        "fwiou": sum(iou[k] * share[k] for k in share),
        "macc": sum(accuracy.values()) / len(accuracy),
        "pacc": float((truth == guess).mean()),
        "miou_seen": seen_,
        "miou_unseen": unseen,
        "hiou": 2 * seen_ * unseen / (seen_ + unseen),
    }


SEEN = [True, False, True, True, False, False]


@pytest.mark.parametrize("absent", [(), (4,), (0, 5), (1, 4, 5)])
def test_every_metric_is_its_formula(absent: tuple[int, ...]) -> None:
    truth, guess = some(absent=absent)
    found = metrics(totals_of(truth, guess), np.array(SEEN))
    assert found == pytest.approx(written_out(truth, guess, SEEN), abs=1e-12)


def test_the_rules_differ_by_classes_that_are_guessed_and_never_true() -> None:
    """Class 2 is guessed and not true, class 3 neither: one rule divides by three classes, the other by two."""
    truth, guess = np.array([[[0, 0, 1, 1]]], np.uint8), np.array([[[0, 2, 1, 1]]], np.int32)
    found = metrics(totals_of(truth, guess))
    assert found["miou"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert found["miou_gt"] == pytest.approx((1 / 2 + 1) / 2)
    assert (found["fwiou"], found["macc"], found["pacc"]) == pytest.approx((3 / 4, 3 / 4, 3 / 4))


def test_a_class_that_is_neither_true_nor_guessed_counts_for_neither_rule() -> None:
    truth = np.array([[[0, 1]]], np.uint8)
    found = metrics(totals_of(truth, truth.astype(np.int32)))
    assert found["miou"] == found["miou_gt"] == 1
    whole = totals_of(truth, truth.astype(np.int32))
    assert [math.isnan(iou) for iou in ious(whole.right[0], whole.true[0], whole.guessed[0])] == [False] * 2 + [
        True
    ] * 4


def test_what_is_guessed_where_nothing_is_scored_counts_for_neither_rule() -> None:
    truth, guess = np.array([[[0, 255]]], np.uint8), np.array([[[0, 3]]], np.int32)
    assert metrics(totals_of(truth, guess)) == dict.fromkeys(("miou", "miou_gt", "fwiou", "macc", "pacc"), 1.0)


def test_a_perfect_prediction_is_1_by_every_metric() -> None:
    truth, _ = some(absent=(3,))
    found = metrics(totals_of(truth, truth.astype(np.int32)), np.array(SEEN))
    assert set(found) == {"miou", "miou_gt", "fwiou", "macc", "pacc", "miou_seen", "miou_unseen", "hiou"}
    assert set(found.values()) == {1.0}


def test_all_wrong_is_0_by_every_metric() -> None:
    truth, _ = some()
    found = metrics(totals_of(truth, np.full(truth.shape, K, np.int32)), np.array(SEEN))
    assert set(found.values()) == {0.0}


def test_images_are_scored_together_and_not_one_by_one() -> None:
    truth, guess = some(images=5)
    found = metrics(totals_of(truth, guess))
    assert found == pytest.approx(metrics(totals_of(truth.reshape(1, 50, 12), guess.reshape(1, 50, 12))))
    assert found == pytest.approx(metrics(totals_of(truth, guess).sum()))
    alone = [metrics(totals_of(truth[i : i + 1], guess[i : i + 1]))["miou"] for i in range(5)]
    assert found["miou"] != pytest.approx(np.mean(alone))


def test_seen_and_unseen_are_left_out_where_there_is_no_such_class() -> None:
    truth, guess = some()
    for flags in ([True] * K, [False] * K):
        found = metrics(totals_of(truth, guess), np.array(flags))
        assert "hiou" not in found
        assert ("miou_seen" in found, "miou_unseen" in found) == (flags[0], not flags[0])
        assert found["miou_seen" if flags[0] else "miou_unseen"] == pytest.approx(found["miou"])


def test_nothing_scored_gives_no_metric() -> None:
    assert metrics(totals_of(np.full((2, 3, 3), 255, np.uint8), np.zeros((2, 3, 3), np.int32)), np.array(SEEN)) == {}


def test_intervals_hold_the_metric_and_come_from_the_seed_alone() -> None:
    whole = totals_of(*some(images=30))
    found = intervals(whole, 300, seed=1)
    point = metrics(whole)
    for name, (low, high) in found.items():
        assert low < point[name] < high and high - low < 0.2
    assert found == intervals(whole, 300, seed=1) and found != intervals(whole, 300, seed=2)
    narrow = intervals(whole, 300, seed=1, level=0.5)
    assert all(found[n][0] < narrow[n][0] < narrow[n][1] < found[n][1] for n in ("miou", "miou_gt"))


def test_intervals_follow_their_definition() -> None:
    """Images drawn with replacement, the metric of each draw, and its quantiles."""
    truth, guess = some(images=5, absent=(2,))
    draws = np.random.default_rng(0).multinomial(5, [0.2] * 5, 40)
    values: dict[str, list[float]] = {"miou": [], "miou_gt": []}
    for draw in draws:
        again = metrics(totals_of(np.repeat(truth, draw, axis=0), np.repeat(guess, draw, axis=0)))
        for name, found in values.items():
            found.append(again[name])
    wanted = {name: np.quantile(found, [0.025, 0.975]) for name, found in values.items()}
    for name, ends in intervals(totals_of(truth, guess), 40).items():
        assert ends == pytest.approx(tuple(wanted[name]))


def test_the_interval_of_one_image_is_a_point() -> None:
    whole = totals_of(*some(images=1))
    assert intervals(whole, 20)["miou"] == pytest.approx((metrics(whole)["miou"],) * 2)


def test_images_without_a_scored_pixel_leave_the_interval_as_it_is() -> None:
    truth, guess = some(images=8)
    truth[0] = 255
    low, high = intervals(totals_of(truth, guess), 200)["miou"]
    assert 0 < low < high < 1


def test_nothing_scored_gives_no_interval() -> None:
    whole = totals_of(np.full((2, 3, 3), 255, np.uint8), np.zeros((2, 3, 3), np.int32))
    assert intervals(whole, 10) == {}
