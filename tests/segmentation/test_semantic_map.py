"""The map is the sum over proposals of score * mask probability and its best class, in strips of any height."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from ovseg.proposals.mask_logits import Extent
from ovseg.segmentation.semantic_map import SemanticMap, semantic_maps

GRID = (7, 9)


def scores_and_logits(num_proposals: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """Scores `[Q, K]` and mask logits `[Q, 7, 9]`."""
    generator = torch.Generator().manual_seed(num_proposals)
    scores = torch.rand(num_proposals, num_classes, generator=generator, dtype=torch.float64)
    return scores, 4 * torch.randn(num_proposals, *GRID, generator=generator)


def semantic_map(
    scores: Tensor,
    logits: Tensor,
    extent: Extent,
    height: int,
    width: int,
    penalty: Tensor | None = None,
    budget: int | None = None,
) -> SemanticMap:
    """The map of one matrix of scores."""
    return semantic_maps([scores], logits, extent, height, width, [penalty], budget)[0]


def class_maps(scores: Tensor, logits: Tensor, height: int, width: int) -> NDArray[np.float64]:
    """S `[K, H, W]` in double precision."""
    if not len(scores):
        return np.zeros((scores.shape[1], height, width))
    enlarged = F.interpolate(logits[None].double(), (height, width), mode="bilinear", align_corners=False)[0]
    probs = 1 / (1 + np.exp(-enlarged.numpy()))
    maps = np.zeros((scores.shape[1], height, width))
    for q in range(len(scores)):
        for k in range(scores.shape[1]):
            maps[k] += float(scores[q, k]) * probs[q]
    return maps


@pytest.mark.parametrize(("num_proposals", "has_penalty"), [(0, False), (1, False), (1, True), (6, False), (6, True)])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (28, 36)])
def test_it_is_the_best_class_of_the_sum_of_scores_times_mask_probabilities(
    num_proposals: int, has_penalty: bool, size: tuple[int, int]
) -> None:
    scores, logits = scores_and_logits(num_proposals, 5)
    penalty = torch.tensor([0.5, 0.0, 0.7, 0.1, 0.0]) if has_penalty else None
    labels, values = semantic_map(scores, logits, GRID, *size, penalty)
    maps = class_maps(scores, logits, *size) - (0 if penalty is None else penalty.double().numpy()[:, None, None])
    assert np.issubdtype(labels.dtype, np.integer) and labels.shape == values.shape == size
    assert np.array_equal(labels, maps.argmax(0))
    np.testing.assert_allclose(values, maps.max(0), atol=1e-5)


def test_without_proposals_the_first_class_without_penalty_wins() -> None:
    """The same as with proposals whose scores are all 0."""
    penalty = torch.tensor([0.1, 0.0, 0.1])
    nothing = semantic_map(torch.zeros(0, 3), torch.zeros(0, *GRID), GRID, 4, 5, penalty)
    zeros = semantic_map(torch.zeros(2, 3), torch.zeros(2, *GRID), GRID, 4, 5, penalty)
    assert np.array_equal(nothing[0], zeros[0]) and np.array_equal(nothing[1], zeros[1])
    assert (zeros[0] == 1).all()


@pytest.mark.parametrize("budget", [1, 36 * 11, 36 * 11 * 5, 10**4, 10**9])
def test_the_memory_budget_changes_nothing(budget: int) -> None:
    scores, logits = scores_and_logits(6, 5)
    penalty = torch.tensor([0.5, 0.0, 0.7, 0.1, 0.0])
    labels, values = semantic_map(scores, logits, (6.5, 8.2), 28, 36, penalty)
    labels_in_strips, values_in_strips = semantic_map(scores, logits, (6.5, 8.2), 28, 36, penalty, budget)
    assert np.array_equal(labels, labels_in_strips)
    np.testing.assert_allclose(values_in_strips, values, atol=1e-6)


def test_the_first_of_equal_classes_wins() -> None:
    scores = torch.tensor([[0.2, 0.5, 0.5], [0.1, 0.3, 0.3]])
    labels, _ = semantic_map(scores, scores_and_logits(2, 3)[1], GRID, 10, 12)
    assert (labels == 1).all()


def test_one_thread_and_several_find_the_same_classes_and_scores() -> None:
    """Equal classes among them; one thread has another way to the largest."""
    scores, logits = scores_and_logits(6, 5)
    scores[:, 3] = scores[:, 1]
    penalty = torch.tensor([0.5, 0.0, 0.7, 0.0, 0.0])
    threads, results = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            results.append(semantic_map(scores, logits, (6.5, 8.2), 28, 36, penalty))
    finally:
        torch.set_num_threads(threads)
    for one, several in zip(*results, strict=True):
        assert one.dtype == several.dtype and np.array_equal(one, several)


def test_hundreds_of_classes_are_possible() -> None:
    """The last of 847 wins where its proposal is."""
    scores = torch.zeros(2, 847)
    scores[0, 3], scores[1, 846] = 0.5, 0.9
    logits = torch.full((2, 4, 4), -20.0)
    logits[0], logits[1, :, 2:] = 20.0, 20.0
    labels, values = semantic_map(scores, logits, (4, 4), 40, 40)
    assert (labels[:, :14] == 3).all() and (labels[:, 26:] == 846).all()
    assert values[0, 0] == pytest.approx(0.5) and values[0, -1] == pytest.approx(0.9)


def test_a_single_class_covers_the_image() -> None:
    labels, values = semantic_map(torch.tensor([[0.4]]), scores_and_logits(1, 1)[1], GRID, 6, 6)
    assert not labels.any() and (values > 0).all()


def test_the_penalty_is_subtracted_after_the_sum() -> None:
    """Two proposals of one class with 0.4 each: 0.5 is subtracted once, not twice."""
    logits = torch.full((2, 2, 2), 20.0)
    labels, values = semantic_map(
        torch.tensor([[0.4, 0.0], [0.4, 0.25]]), logits, (2, 2), 4, 4, torch.tensor([0.5, 0.0])
    )
    assert not labels.any() and values == pytest.approx(np.full((4, 4), 0.3))
