"""The losses of region embeddings, against their formulas written out and small examples worked by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch.testing import assert_close

from ovseg.training.mask_aware import (
    balanced_cross_entropy,
    balanced_weights,
    class_distillation,
    crop_distillation,
    mask_aware_loss,
    min_max,
    self_distillation,
)


def test_min_max_stretches_each_row_over_the_regions_that_count() -> None:
    values = torch.tensor([[0.2, 0.6, 0.4, 0.9], [0.5, 0.5, 0.5, 0.5]])
    real = torch.tensor([[True, True, True, False], [True, True, True, True]])
    assert_close(min_max(values, real), torch.tensor([[0.0, 1.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0]]))


def test_images_without_regions_have_no_mask_aware_loss() -> None:
    """Where no image of a batch has one, there is not even padding."""
    nothing = torch.zeros(3, 0)
    assert_close(mask_aware_loss(nothing, nothing, nothing.bool()), torch.tensor(0.0))


def test_the_mask_aware_loss_is_its_formula_written_out() -> None:
    generator = torch.Generator().manual_seed(1)
    probabilities, overlaps = (torch.rand(3, 5, generator=generator) for _ in range(2))
    real = torch.ones(3, 5, dtype=torch.bool)
    total = 0.0
    for row in range(3):
        low, high = float(overlaps[row].min()), float(overlaps[row].max())
        for region in range(5):
            difference = abs(float(probabilities[row, region]) - (float(overlaps[row, region]) - low) / (high - low))
            total += difference**2 / 2 if difference < 1 else difference - 0.5
    assert_close(mask_aware_loss(probabilities, overlaps, real), torch.tensor(total / 15))


def test_padding_changes_neither_the_mask_aware_loss_nor_gets_a_gradient() -> None:
    probabilities = torch.tensor([[0.9, 0.3, 0.4]], requires_grad=True)
    overlaps, real = torch.tensor([[0.8, 0.1, 0.0]]), torch.tensor([[True, True, False]])
    loss = mask_aware_loss(probabilities, overlaps, real)
    assert_close(loss, mask_aware_loss(probabilities[:, :2], overlaps[:, :2], real[:, :2]))
    torch.autograd.backward(loss)
    assert probabilities.grad is not None
    assert probabilities.grad[0, 2] == 0
    assert_close(mask_aware_loss(probabilities, overlaps, torch.zeros_like(real)), torch.tensor(0.0))


def test_self_distillation_moves_the_student_alone() -> None:
    student, teacher = (torch.full((2, 3), value, requires_grad=True) for value in (0.5, 0.1))
    loss = self_distillation(student, teacher)
    assert_close(loss, torch.tensor(0.4**2 / 2))
    torch.autograd.backward(loss)
    assert teacher.grad is None


def test_images_classes_and_regions_have_equal_weights() -> None:
    """Image 7 has two regions of class 0 and one of class 1, image 9 one region."""
    images, labels = torch.tensor([7, 7, 7, 9]), torch.tensor([0, 0, 1, 1])
    assert_close(balanced_weights(images, labels), torch.tensor([1 / 8, 1 / 8, 1 / 4, 1 / 2]))


def test_balanced_cross_entropy_is_its_formula_written_out() -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(2))
    images, labels = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 2, 2])
    log_probabilities = logits - logits.exp().sum(1, keepdim=True).log()
    weights = (1 / (2 * 2 * 2), 1 / (2 * 2 * 2), 1 / (2 * 2 * 1), 1 / (2 * 1 * 1))
    expected = -sum(w * float(log_probabilities[i, labels[i]]) for i, w in enumerate(weights))
    assert float(balanced_cross_entropy(logits, images, labels)) == pytest.approx(expected, abs=1e-6)


def test_crop_distillation_is_one_minus_the_mean_cosine() -> None:
    student = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert_close(crop_distillation(student, torch.tensor([[1.0, 0.0], [0.6, 0.8]])), torch.tensor(0.1))
    assert crop_distillation(student[:0], student[:0]) == 0


def test_class_distillation_is_the_mean_divergence_of_the_probabilities_of_all_classes() -> None:
    """KL(t || s) = sum of t log(t / s), with t and s softmaxes of scale x cosine; nothing flows into the teacher."""
    student, teacher, texts = (F.normalize(torch.randn(n, 4), dim=1) for n in (3, 3, 5))
    student.requires_grad_()
    teacher.requires_grad_()
    s, t = (torch.exp(7 * v @ texts.T) for v in (student, teacher))
    s, t = s / s.sum(1, keepdim=True), t / t.sum(1, keepdim=True)
    loss = class_distillation(student, teacher, texts, 7.0)
    assert_close(loss, (t * (t / s).log()).sum() / 3)
    torch.autograd.backward(loss)
    assert student.grad is not None and teacher.grad is None
    assert class_distillation(teacher, teacher, texts, 7.0) == 0
    assert class_distillation(teacher[:0], teacher[:0], texts, 7.0) == 0
