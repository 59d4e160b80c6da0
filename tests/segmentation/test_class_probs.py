"""The ensemble's formulas (paper 3.1; SimBaseline's and ZegFormer's variants), each written out with numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovseg.segmentation.class_probs import by_clip, by_network, class_weights, ensemble_scores

Q, K = 4, 6
VALID = torch.tensor([True, False, True, True])
SEEN = torch.tensor([True, True, False, True, False, False])


def cosines(seed: int, *shape: int) -> Tensor:
    return 0.3 * torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 0.1


def softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    raised = np.exp(values - values.max(1, keepdims=True))
    return np.asarray(raised / raised.sum(1, keepdims=True))


@pytest.fixture
def p() -> Tensor:
    return by_network(cosines(0, Q, K), cosines(1, Q))


@pytest.fixture
def q() -> Tensor:
    found = by_clip(cosines(2, Q, K))
    found[~VALID] = 0.0  # as `Segmenter.by_clip` leaves it
    return found


def test_the_network_s_word_is_a_softmax_with_no_object_of_which_the_classes_stay_as_they_are(p: Tensor) -> None:
    similarity, nothing = cosines(0, Q, K).numpy(), cosines(1, Q).numpy()
    wanted = softmax(100 * np.concatenate([similarity, nothing[:, None]], axis=1))[:, :K]
    np.testing.assert_allclose(p, wanted, rtol=1e-12)
    assert (p.sum(1) < 1).all() and p.dtype == torch.float64


def test_a_proposal_of_nothing_has_small_scores_for_every_class() -> None:
    p = by_network(torch.full((1, 3), 0.1, dtype=torch.float64), torch.tensor([0.3]))
    assert float(p.sum()) < 1e-8


def test_clip_s_word_is_a_softmax_over_the_classes() -> None:
    q = by_clip(cosines(2, Q, K))
    np.testing.assert_allclose(q, softmax(100 * cosines(2, Q, K).numpy()), rtol=1e-12)
    np.testing.assert_allclose(q.sum(1), 1)


def test_weight_0_is_the_network_s_word_and_weight_1_clip_s_exactly(p: Tensor, q: Tensor) -> None:
    assert torch.equal(ensemble_scores(p, q, VALID, 0.0), p)
    assert torch.equal(ensemble_scores(p, q, VALID, 1.0)[VALID], q[VALID])


def test_weight_0_is_exact_where_clip_says_never_and_weight_1_where_the_network_does() -> None:
    p, q, valid = torch.tensor([[0.0, 0.4]]), torch.tensor([[0.7, 0.0]]), torch.tensor([True])
    assert torch.equal(ensemble_scores(p, q, valid, 0.0), p)
    assert torch.equal(ensemble_scores(p, q, valid, 1.0), q)
    assert not ensemble_scores(p, q, valid, 0.5).any()


@pytest.mark.parametrize("weight", [0.25, 0.7])
def test_in_between_it_is_the_product_of_powers(p: Tensor, q: Tensor, weight: float) -> None:
    wanted = p.numpy() ** (1 - weight) * q.numpy() ** weight
    np.testing.assert_allclose(ensemble_scores(p, q, VALID, weight)[VALID], wanted[VALID.numpy()], rtol=1e-12)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_of_a_proposal_without_a_pixel_the_network_s_word_stands(p: Tensor, q: Tensor, weight: float) -> None:
    for some in (weight, torch.full((K,), weight, dtype=torch.float64)):
        for seen in (None, SEEN):
            assert torch.equal(ensemble_scores(p, q, VALID, some, seen)[~VALID], p[~VALID])


def test_each_class_may_have_a_weight_of_its_own(p: Tensor, q: Tensor) -> None:
    """SimBaseline: seen classes p^0.8 q^0.2, unseen p^0.2 q^0.8."""
    weights = class_weights(0.8, 0.2, SEEN)
    found = ensemble_scores(p, q, VALID, weights).numpy()
    for k in range(K):
        w = 0.2 if SEEN[k] else 0.8
        wanted = p[:, k].numpy() ** (1 - w) * q[:, k].numpy() ** w
        np.testing.assert_allclose(found[VALID, k], wanted[VALID], rtol=1e-12)


def test_clip_s_word_on_seen_classes_may_be_their_mean(p: Tensor, q: Tensor) -> None:
    """ZegFormer: seen classes p^l avg_seen(q)^(1 - l), unseen p^(1 - l) q^l, with l = 2/3."""
    found = ensemble_scores(p, q, VALID, class_weights(2 / 3, 1 / 3, SEEN), SEEN).numpy()[VALID]
    network, clip = p.numpy()[VALID], q.numpy()[VALID]
    mean = clip[:, SEEN].mean(1)
    for k in range(K):
        seen, unseen = network[:, k] ** (2 / 3) * mean ** (1 / 3), network[:, k] ** (1 / 3) * clip[:, k] ** (2 / 3)
        np.testing.assert_allclose(found[:, k], seen if SEEN[k] else unseen, rtol=1e-12)


def test_the_mean_of_no_seen_class_changes_nothing(p: Tensor, q: Tensor) -> None:
    none = torch.zeros(K, dtype=torch.bool)
    assert torch.equal(ensemble_scores(p, q, VALID, 0.7, none), ensemble_scores(p, q, VALID, 0.7))


def test_class_weights() -> None:
    assert class_weights(0.7, None, SEEN).tolist() == [0.7] * K
    assert class_weights(0.7, 0.2, SEEN).tolist() == [0.2, 0.2, 0.7, 0.2, 0.7, 0.7]
    assert class_weights(0.7, 0.0, SEEN).tolist() == [0.0, 0.0, 0.7, 0.0, 0.7, 0.7]


@pytest.mark.parametrize("number", [0, 1])
def test_no_proposal_and_one_are_like_many(number: int) -> None:
    p, q = by_network(cosines(0, number, K), cosines(1, number)), by_clip(cosines(2, number, K))
    found = ensemble_scores(p, q, torch.ones(number, dtype=torch.bool), class_weights(0.7, 0.2, SEEN), SEEN)
    assert found.shape == (number, K)
