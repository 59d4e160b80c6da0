"""Mask probabilities and binary masks at the size of the image: interpolation, thresholds and padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ovseg.core import masks
from ovseg.proposals.mask_logits import binarize_proposals, binary_masks, upsample_mask_probs


def random_logits(queries: int, height: int, width: int) -> Tensor:
    return 3 * torch.randn(queries, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("grid", [(1, 1), (5, 7), (16, 24)])
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (4, 3), (33, 47)])
def test_without_padding_it_is_the_sigmoid_of_bilinear_interpolation(
    grid: tuple[int, int], size: tuple[int, int]
) -> None:
    logits = random_logits(3, *grid)
    expected = F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0].sigmoid()
    torch.testing.assert_close(upsample_mask_probs(logits, grid, *size), expected, atol=1e-5, rtol=0)


def test_a_strip_of_rows_equals_the_same_rows_of_the_whole() -> None:
    logits = random_logits(3, 8, 8)
    all_rows = upsample_mask_probs(logits, (6.5, 7), 29, 31)
    assert all_rows.shape == (3, 29, 31)
    for top, bottom in ((0, 1), (3, 17), (28, 29), (5, 5)):
        torch.testing.assert_close(upsample_mask_probs(logits, (6.5, 7), 29, 31, top, bottom), all_rows[:, top:bottom])
    torch.testing.assert_close(upsample_mask_probs(logits, (6.5, 7), 29, 31, 20), all_rows[:, 20:])


def test_padding_is_cut_off_before_the_grid_is_enlarged() -> None:
    """In a grid of 8 x 8 cells, 6 x 4 cells are image."""
    logits = random_logits(3, 8, 8)
    expected = F.interpolate(logits[None, :, :6, :4], (24, 16), mode="bilinear", align_corners=False)[0].sigmoid()
    torch.testing.assert_close(upsample_mask_probs(logits, (6, 4), 24, 16), expected, atol=1e-5, rtol=0)


def test_padding_changes_nothing() -> None:
    logits = random_logits(3, 8, 8)
    changed = logits.clone()
    changed[:, 6:] = changed[:, :, 4:] = 1e4
    torch.testing.assert_close(
        upsample_mask_probs(logits, (6, 4), 24, 16), upsample_mask_probs(changed, (6, 4), 24, 16), atol=1e-2, rtol=0
    )


@pytest.mark.parametrize("extent", [4.0, 5.25, 7.8])
def test_the_extent_may_end_inside_a_cell(extent: float) -> None:
    """A ramp over the columns of the grid stays a ramp up to the center of the image's last cell."""
    logits = torch.arange(8.0).repeat(1, 3, 1)
    values = upsample_mask_probs(logits, (3, extent), 3, 40).logit()[0, 1]
    expected = ((torch.arange(40) + 0.5) * extent / 40 - 0.5).clamp(0, extent - 1)
    torch.testing.assert_close(values, expected, atol=2e-3, rtol=0)


def test_a_mask_is_where_the_probability_is_above_the_threshold() -> None:
    logits = random_logits(4, 6, 6)
    logits[2] = -20.0
    probs = upsample_mask_probs(logits, (6, 6), 20, 30).numpy()
    for mask, expected in zip(binary_masks(logits, (6, 6), 20, 30, 0.4), probs, strict=True):
        assert mask.dtype == bool and np.array_equal(mask, expected > 0.4)


def test_proposals_come_best_first_and_without_empty_ones_and_score_the_mean_probability_inside() -> None:
    logits = random_logits(4, 6, 6)
    logits[2] = -20.0
    proposals = binarize_proposals(logits, (6, 6), 20, 30, 0.4)
    probs = upsample_mask_probs(logits, (6, 6), 20, 30).numpy()
    expected = sorted(((p[p > 0.4].mean(), p > 0.4) for p in probs if (p > 0.4).any()), key=lambda pair: -pair[0])
    assert len(proposals) == len(expected) == 3
    for proposal, (score, mask) in zip(proposals, expected, strict=True):
        assert proposal.score == pytest.approx(score, abs=1e-6)
        assert np.array_equal(masks.decode(proposal.rle, 20, 30), mask)
    assert binarize_proposals(torch.full((2, 4, 4), -20.0), (4, 4), 20, 30, 0.4) == []
    assert binarize_proposals(torch.zeros(0, 4, 4), (4, 4), 20, 30, 0.4) == []


def test_padding_is_cut_off_before_the_mask_is_enlarged() -> None:
    """A mask of the left half of the unpadded cells is a mask of the left half of the image."""
    logits = torch.full((2, 8, 8), -9.0)
    logits[0, :6, :2] = 9.0  # 6 rows and 4 columns of the grid are image
    logits[:, 6:] = logits[:, :, 4:] = 9.0  # padding, which must not matter
    (proposal,) = binarize_proposals(logits, (6, 4), 12, 16, 0.5)
    mask = masks.decode(proposal.rle, 12, 16)
    assert mask[:, :8].all() and not mask[:, 8:].any() and proposal.score > 0.8
