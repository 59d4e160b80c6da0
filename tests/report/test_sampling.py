"""The sample of pairs covers all similarities and many nouns."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ovseg.report.sampling import BINS, choose, split_caption


def many(seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """5,000 similarities around 0.25, a fifth of them missing, and nouns of which the first is nine in ten."""
    rng = np.random.default_rng(seed)
    similarity = rng.normal(0.25, 0.03, 5000)
    similarity[rng.random(5000) < 0.2] = np.nan
    return similarity, np.where(rng.random(5000) < 0.9, 0, rng.integers(1, 60, 5000))


def test_a_sample_is_ascending_without_repeats_and_the_same_every_time() -> None:
    chosen = choose(*many(), 300)
    assert len(chosen) == 300
    assert (np.diff(chosen) > 0).all()
    assert np.array_equal(chosen, choose(*many(), 300))


def test_the_worst_and_the_best_pairs_are_always_there() -> None:
    similarity, nouns = many()
    chosen = set(choose(similarity, nouns, 100).tolist())
    known = np.flatnonzero(np.isfinite(similarity))
    order = known[np.argsort(similarity[known])]
    assert set(order[:5].tolist()) | set(order[-5:].tolist()) <= chosen


def test_every_part_of_the_similarity_range_is_there_and_so_are_pairs_without_one() -> None:
    similarity, nouns = many()
    chosen_values = similarity[choose(similarity, nouns, 200)]
    edges = np.linspace(np.nanmin(similarity), np.nanmax(similarity), BINS + 1)
    filled = np.histogram(similarity[np.isfinite(similarity)], edges)[0] > 0
    assert (np.histogram(chosen_values[np.isfinite(chosen_values)], edges)[0] > 0)[filled].all()
    assert np.isnan(chosen_values).any()


def test_even_a_small_sample_has_low_middle_and_high_similarities() -> None:
    similarity, nouns = many()
    chosen_values = similarity[choose(similarity, nouns, 8)]
    low, high = np.quantile(similarity[np.isfinite(similarity)], [0.1, 0.9])
    assert (chosen_values < low).any()
    assert (chosen_values > high).any()
    assert ((chosen_values > low) & (chosen_values < high)).any()


def test_a_common_noun_does_not_fill_the_sample() -> None:
    similarity, nouns = many()
    chosen_values = nouns[choose(similarity, nouns, 300)]
    assert 0 < (chosen_values == 0).mean() < 0.6  # of all pairs it is 0.9
    assert len(np.unique(chosen_values)) > 40


@pytest.mark.parametrize("values", [[0.2], [0.2] * 9, [np.nan] * 9, [0.1, np.nan, 0.3]])
@pytest.mark.parametrize("number", [0, 1, 2, 100])
def test_few_equal_or_missing_similarities_are_no_trouble(values: list[float], number: int) -> None:
    chosen = choose(np.array(values), np.zeros(len(values), dtype=np.int64), number)
    assert len(chosen) == min(number, len(values))


def test_a_caption_is_split_at_its_noun_and_an_annotated_pair_has_none() -> None:
    image = {"captions": [{"id": 7, "text": "a \U0001f415 dog barks"}]}
    assert split_caption({"caption_id": 7, "start": 4, "end": 7}, image) == ("a \U0001f415 ", "dog", " barks")
    assert split_caption({"caption_id": None, "start": None, "end": None}, image) == ("", "", "")
