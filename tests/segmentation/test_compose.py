"""The map is the sum over proposals of score x soft mask, and its best class, however it is cut into strips."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from ovseg.segmentation.compose import compose

GRID = (7, 9)


def some(queries: int, classes: int) -> tuple[Tensor, Tensor]:
    """Scores `[Q, K]` and mask logits `[Q, 7, 9]`."""
    generator = torch.Generator().manual_seed(queries)
    scores = torch.rand(queries, classes, generator=generator, dtype=torch.float64)
    return scores, 4 * torch.randn(queries, *GRID, generator=generator)


def maps(scores: Tensor, logits: Tensor, height: int, width: int) -> NDArray[np.float64]:
    """S `[K, H, W]` in double precision."""
    if not len(scores):
        return np.zeros((scores.shape[1], height, width))
    enlarged = F.interpolate(logits[None].double(), (height, width), mode="bilinear", align_corners=False)[0]
    soft = 1 / (1 + np.exp(-enlarged.numpy()))
    whole = np.zeros((scores.shape[1], height, width))
    for query in range(len(scores)):
        for k in range(scores.shape[1]):
            whole[k] += float(scores[query, k]) * soft[query]
    return whole


@pytest.mark.parametrize(("queries", "calibrated"), [(0, False), (1, False), (1, True), (6, False), (6, True)])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (28, 36)])
def test_it_is_the_sum_of_scores_times_soft_masks_and_its_best_class(
    queries: int, calibrated: bool, size: tuple[int, int]
) -> None:
    scores, logits = some(queries, 5)
    less = torch.tensor([0.5, 0.0, 0.7, 0.1, 0.0]) if calibrated else None
    labels, values = compose(scores, logits, GRID, *size, less)
    whole = maps(scores, logits, *size) - (0 if less is None else less.double().numpy()[:, None, None])
    assert np.issubdtype(labels.dtype, np.integer) and labels.shape == values.shape == size
    assert np.array_equal(labels, whole.argmax(0))
    np.testing.assert_allclose(values, whole.max(0), atol=1e-5)


def test_no_proposals_give_the_first_class_that_is_not_discounted() -> None:
    """As with proposals whose scores are all 0."""
    less = torch.tensor([0.1, 0.0, 0.1])
    nothing = compose(torch.zeros(0, 3), torch.zeros(0, *GRID), GRID, 4, 5, less)
    zeros = compose(torch.zeros(2, 3), torch.zeros(2, *GRID), GRID, 4, 5, less)
    assert np.array_equal(nothing[0], zeros[0]) and np.array_equal(nothing[1], zeros[1])
    assert (zeros[0] == 1).all()


@pytest.mark.parametrize("budget", [1, 36 * 11, 36 * 11 * 5, 10**4, 10**9])
def test_the_budget_of_memory_changes_nothing(budget: int) -> None:
    scores, logits = some(6, 5)
    less = torch.tensor([0.5, 0.0, 0.7, 0.1, 0.0])
    labels, values = compose(scores, logits, (6.5, 8.2), 28, 36, less)
    other, found = compose(scores, logits, (6.5, 8.2), 28, 36, less, budget)
    assert np.array_equal(labels, other)
    np.testing.assert_allclose(found, values, atol=1e-6)


def test_of_equal_classes_it_is_the_first() -> None:
    scores = torch.tensor([[0.2, 0.5, 0.5], [0.1, 0.3, 0.3]])
    labels, _ = compose(scores, some(2, 3)[1], GRID, 10, 12)
    assert (labels == 1).all()


def test_hundreds_of_classes_can_be_composed() -> None:
    """The last of 847 wins where its proposal is."""
    scores = torch.zeros(2, 847)
    scores[0, 3], scores[1, 846] = 0.5, 0.9
    logits = torch.full((2, 4, 4), -20.0)
    logits[0], logits[1, :, 2:] = 20.0, 20.0
    labels, values = compose(scores, logits, (4, 4), 40, 40)
    assert (labels[:, :14] == 3).all() and (labels[:, 26:] == 846).all()
    assert values[0, 0] == pytest.approx(0.5) and values[0, -1] == pytest.approx(0.9)


def test_one_class_is_everywhere() -> None:
    labels, values = compose(torch.tensor([[0.4]]), some(1, 1)[1], GRID, 6, 6)
    assert not labels.any() and (values > 0).all()


def test_the_discount_is_taken_after_the_sum() -> None:
    """Two proposals of one class, 0.4 each, less 0.5 once and not twice."""
    logits = torch.full((2, 2, 2), 20.0)
    labels, values = compose(torch.tensor([[0.4, 0.0], [0.4, 0.25]]), logits, (2, 2), 4, 4, torch.tensor([0.5, 0.0]))
    assert not labels.any() and values == pytest.approx(np.full((4, 4), 0.3))
