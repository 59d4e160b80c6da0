"""The formulas of the ensemble (paper 3.1; variants of SimBaseline and ZegFormer), each written out with numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovseg.segmentation.class_probs import (
    ClassProbs,
    class_weights,
    clip_class_probs,
    ensemble_scores,
    network_class_probs,
)

Q, K = 4, 6
VALID = torch.tensor([True, False, True, True])
SEEN = torch.tensor([True, True, False, True, False, False])


def cosines(seed: int, *shape: int) -> Tensor:
    return 0.3 * torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 0.1


def softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    raised = np.exp(values - values.max(1, keepdims=True))
    return np.asarray(raised / raised.sum(1, keepdims=True))


@pytest.fixture
def probs() -> ClassProbs:
    clip = clip_class_probs(cosines(2, Q, K))
    clip[~VALID] = 0.0  # as `Segmenter.clip_probs` leaves it
    return ClassProbs(network_class_probs(cosines(0, Q, K), cosines(1, Q)), clip, VALID)


def test_the_network_s_probabilities_are_a_softmax_with_no_object_that_is_not_normalized_again(
    probs: ClassProbs,
) -> None:
    similarity, no_object = cosines(0, Q, K).numpy(), cosines(1, Q).numpy()
    expected = softmax(100 * np.concatenate([similarity, no_object[:, None]], axis=1))[:, :K]
    np.testing.assert_allclose(probs.network, expected, rtol=1e-12)
    assert (probs.network.sum(1) < 1).all() and probs.network.dtype == torch.float64


def test_a_proposal_of_no_object_has_small_probabilities_for_every_class() -> None:
    network = network_class_probs(torch.full((1, 3), 0.1, dtype=torch.float64), torch.tensor([0.3]))
    assert float(network.sum()) < 1e-8


def test_clip_s_probabilities_are_a_softmax_over_the_classes() -> None:
    clip = clip_class_probs(cosines(2, Q, K))
    np.testing.assert_allclose(clip, softmax(100 * cosines(2, Q, K).numpy()), rtol=1e-12)
    np.testing.assert_allclose(clip.sum(1), 1)


def test_no_object_may_take_part_in_clip_s_softmax() -> None:
    """ZegFormer: the network's logit beside CLIP's K, dropped after the softmax and not normalized again."""
    similarity, no_object = cosines(2, Q, K), cosines(1, Q)
    expected = softmax(100 * np.concatenate([similarity.numpy(), no_object.numpy()[:, None]], axis=1))[:, :K]
    np.testing.assert_allclose(clip_class_probs(similarity, no_object), expected, rtol=1e-12)
    assert (clip_class_probs(similarity, no_object).sum(1) < 1).all()


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.8])
def test_a_proposal_without_a_pixel_may_be_boosted(probs: ClassProbs, weight: float) -> None:
    """In the reference code CLIP's probability of every class is 1 there: p^(1 - w) * 1^w."""
    scores = ensemble_scores(probs, weight, invalid="boost")
    np.testing.assert_allclose(scores[~VALID], probs.network.numpy()[~VALID] ** (1 - weight), rtol=1e-12)
    assert torch.equal(scores[VALID], ensemble_scores(probs, weight)[VALID])
    by_class = ensemble_scores(probs, class_weights(weight, 0.2, SEEN), invalid="boost")[~VALID]
    np.testing.assert_allclose(by_class[:, SEEN], probs.network.numpy()[~VALID][:, SEEN] ** 0.8, rtol=1e-12)


def test_a_boosted_proposal_counts_for_nothing_where_clip_alone_counts(probs: ClassProbs) -> None:
    assert not ensemble_scores(probs, 1.0, invalid="boost")[~VALID].any()


def test_weight_0_is_exactly_the_network_and_weight_1_exactly_clip(probs: ClassProbs) -> None:
    assert torch.equal(ensemble_scores(probs, 0.0), probs.network)
    assert torch.equal(ensemble_scores(probs, 1.0)[VALID], probs.clip[VALID])


def test_weights_0_and_1_are_exact_where_the_other_classifier_gives_0() -> None:
    probs = ClassProbs(torch.tensor([[0.0, 0.4]]), torch.tensor([[0.7, 0.0]]), torch.tensor([True]))
    assert torch.equal(ensemble_scores(probs, 0.0), probs.network)
    assert torch.equal(ensemble_scores(probs, 1.0), probs.clip)
    assert not ensemble_scores(probs, 0.5).any()


@pytest.mark.parametrize("weight", [0.25, 0.7])
def test_other_weights_give_the_product_of_powers(probs: ClassProbs, weight: float) -> None:
    expected = probs.network.numpy() ** (1 - weight) * probs.clip.numpy() ** weight
    np.testing.assert_allclose(ensemble_scores(probs, weight)[VALID], expected[VALID.numpy()], rtol=1e-12)


def test_clip_alone_gives_nothing_to_a_proposal_without_a_pixel(probs: ClassProbs) -> None:
    """Otherwise a figure of CLIP alone would contain the word of the proposal network."""
    assert not ensemble_scores(probs, 1.0)[~VALID].any()
    scores = ensemble_scores(probs, class_weights(1.0, 0.2, SEEN))[~VALID]
    assert not scores[:, ~SEEN].any() and torch.equal(scores[:, SEEN], probs.network[~VALID][:, SEEN])


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.99])
def test_the_network_alone_classifies_a_proposal_without_a_pixel(probs: ClassProbs, weight: float) -> None:
    for weights in (weight, torch.full((K,), weight, dtype=torch.float64)):
        for seen in (None, SEEN):
            assert torch.equal(ensemble_scores(probs, weights, seen)[~VALID], probs.network[~VALID])


def test_each_class_may_have_its_own_weight(probs: ClassProbs) -> None:
    """SimBaseline: seen classes network^0.8 clip^0.2, unseen network^0.2 clip^0.8."""
    scores = ensemble_scores(probs, class_weights(0.8, 0.2, SEEN)).numpy()
    for k in range(K):
        w = 0.2 if SEEN[k] else 0.8
        expected = probs.network[:, k].numpy() ** (1 - w) * probs.clip[:, k].numpy() ** w
        np.testing.assert_allclose(scores[VALID, k], expected[VALID], rtol=1e-12)


def test_clip_s_probabilities_of_seen_classes_may_be_replaced_by_their_mean(probs: ClassProbs) -> None:
    """ZegFormer: seen classes network^l avg_seen(clip)^(1 - l), unseen network^(1 - l) clip^l, with l = 2/3."""
    scores = ensemble_scores(probs, class_weights(2 / 3, 1 / 3, SEEN), SEEN).numpy()[VALID]
    network, clip = probs.network.numpy()[VALID], probs.clip.numpy()[VALID]
    mean = clip[:, SEEN].mean(1)
    for k in range(K):
        seen, unseen = network[:, k] ** (2 / 3) * mean ** (1 / 3), network[:, k] ** (1 / 3) * clip[:, k] ** (2 / 3)
        np.testing.assert_allclose(scores[:, k], seen if SEEN[k] else unseen, rtol=1e-12)


def test_the_mean_over_no_seen_class_changes_nothing(probs: ClassProbs) -> None:
    none_seen = torch.zeros(K, dtype=torch.bool)
    assert torch.equal(ensemble_scores(probs, 0.7, none_seen), ensemble_scores(probs, 0.7))


def test_class_weights() -> None:
    assert class_weights(0.7, None, SEEN).tolist() == [0.7] * K
    assert class_weights(0.7, 0.2, SEEN).tolist() == [0.2, 0.2, 0.7, 0.2, 0.7, 0.7]
    assert class_weights(0.7, 0.0, SEEN).tolist() == [0.0, 0.0, 0.7, 0.0, 0.7, 0.7]


@pytest.mark.parametrize("number", [0, 1])
def test_zero_proposals_and_one_are_treated_like_many(number: int) -> None:
    network = network_class_probs(cosines(0, number, K), cosines(1, number))
    probs = ClassProbs(network, clip_class_probs(cosines(2, number, K)), torch.ones(number, dtype=torch.bool))
    assert ensemble_scores(probs, class_weights(0.7, 0.2, SEEN), SEEN).shape == (number, K)
