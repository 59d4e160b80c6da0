"""The contrastive loss against its formulas written out, and against open_clip's own."""

from __future__ import annotations

import math

import open_clip
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ovseg.training.losses import contrastive

IDS = torch.tensor([3, 1, 3, 0, 1])


def _unit(seed: int) -> Tensor:
    return F.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_info_nce_is_open_clips_loss() -> None:
    crops, texts, scale = _unit(0), _unit(1), torch.tensor(20.0)
    wanted = open_clip.ClipLoss()(crops, texts, scale)
    torch.testing.assert_close(contrastive(crops, texts, IDS, scale, "info_nce"), wanted)


def test_multi_positive_is_its_formula_written_out() -> None:
    crops, texts, scale = _unit(0), _unit(1), 20.0
    total = 0.0
    for a, b in ((crops, texts), (texts, crops)):
        for i in range(5):
            logits = [scale * float(a[i] @ b[j]) for j in range(5)]
            log_sum = math.log(sum(math.exp(x) for x in logits))
            right = [j for j in range(5) if IDS[j] == IDS[i]]
            total += sum(log_sum - logits[j] for j in right) / len(right) / 5
    loss = contrastive(crops, texts, IDS, torch.tensor(scale), "multi_positive")
    assert loss.item() == pytest.approx(total / 2, abs=1e-5)


def test_without_repeated_nouns_both_are_the_same() -> None:
    crops, texts, scale = _unit(0), _unit(1), torch.tensor(20.0)
    ids = torch.arange(5)
    info_nce, multi_positive = (contrastive(crops, texts, ids, scale, loss) for loss in ("info_nce", "multi_positive"))
    torch.testing.assert_close(info_nce, multi_positive)


def test_another_crop_of_the_same_noun_is_pushed_away_by_info_nce_alone() -> None:
    """Two perfect pairs of one noun: the paper's loss pulls them apart, ours has nothing left to gain."""
    vector = F.normalize(torch.ones(1, 8), dim=-1)
    crops = torch.cat([vector, vector]).requires_grad_()
    texts, ids, scale = torch.cat([vector, vector]), torch.tensor([4, 4]), torch.tensor(10.0)
    assert contrastive(crops, texts, ids, scale, "multi_positive").item() == pytest.approx(math.log(2))
    torch.autograd.backward(contrastive(crops, texts + 0.1 * torch.eye(2, 8), ids, scale, "multi_positive"))
    ours = crops.grad
    crops.grad = None
    torch.autograd.backward(contrastive(crops, texts + 0.1 * torch.eye(2, 8), ids, scale, "info_nce"))
    assert ours is not None and crops.grad is not None
    assert ours.abs().max() < 1e-6 < crops.grad.abs().max()
