"""The confusion of an image is what numpy counts pixel by pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ovseg.evaluation.confusion import Totals, confusion, totals


def counted(truth: NDArray[Any], guess: NDArray[Any], classes: int, ignore: int) -> NDArray[np.int64]:
    """The matrix `[K + 1, K + 1]`, true class by guessed class, one pixel at a time."""
    cells = np.zeros((classes + 1) ** 2, np.int64)
    for true, guessed in zip(truth.ravel().tolist(), guess.ravel().tolist(), strict=True):
        if true != ignore:
            cells[true * (classes + 1) + guessed] += 1
    return cells.reshape(classes + 1, classes + 1)


def matrix(truth: NDArray[Any], guess: NDArray[Any], classes: int, ignore: int) -> NDArray[np.int64]:
    cells, pixels = confusion(truth, guess, classes, ignore)
    assert (np.diff(cells) > 0).all() and (pixels > 0).all() and cells.dtype == pixels.dtype == np.int64
    whole = np.zeros((classes + 1) ** 2, np.int64)
    whole[cells] = pixels
    return whole.reshape(classes + 1, classes + 1)


def maps(seed: int, classes: int, ignore: int, kind: Any, size: tuple[int, int]) -> tuple[NDArray[Any], NDArray[Any]]:
    """A truth of runs with holes that are not scored, and a guess of classes and "others"."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(rng.integers(0, classes, size), 3, axis=1).astype(kind)
    truth[rng.random(truth.shape) < 0.1] = ignore
    guess = np.where(rng.random(truth.shape) < 0.5, truth, rng.integers(0, classes + 1, truth.shape))
    return truth, np.where(guess == ignore, classes, guess)


@pytest.mark.parametrize(
    ("classes", "ignore", "kind"),
    [(5, 255, np.uint8), (255, 255, np.uint8), (254, 255, np.uint16), (847, 65535, np.uint16), (2, 65535, np.uint16)],
)
@pytest.mark.parametrize("guessed", [np.int32, np.uint16, np.int64])
@pytest.mark.parametrize("size", [(1, 1), (1, 30), (20, 13)])
def test_it_is_what_counting_pixel_by_pixel_gives(
    classes: int, ignore: int, kind: Any, guessed: Any, size: tuple[int, int]
) -> None:
    truth, guess = maps(classes, classes, ignore, kind, size)
    before = truth.copy()
    found = matrix(truth, guess.astype(guessed), classes, ignore)
    assert np.array_equal(found, counted(truth, guess, classes, ignore))
    assert np.array_equal(truth, before)


def test_it_is_numpy_s_bincount_of_pairs() -> None:
    truth, guess = maps(0, 9, 255, np.uint8, (40, 40))
    scored = truth != 255
    wanted = np.bincount(truth[scored].astype(np.int64) * 10 + guess[scored], minlength=100)
    assert np.array_equal(matrix(truth, guess, 9, 255).ravel(), wanted)


@pytest.mark.parametrize("runs", [[1], [1, 1], [1, 1, 1], [4, 1], [1, 4], [2, 3, 2]])
def test_runs_of_any_length_are_counted(runs: list[int]) -> None:
    """The first, the last, and single pixels, wherever a row ends."""
    truth = np.repeat(np.arange(len(runs)), runs).astype(np.uint8)
    for shape in ((1, -1), (-1, 1)):
        found = matrix(truth.reshape(shape), truth.reshape(shape).astype(np.int32), 4, 255)
        assert np.diag(found)[: len(runs)].tolist() == runs and found.sum() == sum(runs)


def test_a_map_of_one_class_is_one_cell() -> None:
    cells, pixels = confusion(np.full((6, 7), 2, np.uint8), np.full((6, 7), 1, np.int32), 3, 255)
    assert cells.tolist() == [2 * 4 + 1] and pixels.tolist() == [42]


def test_others_is_a_guess_and_never_right() -> None:
    truth, guess = np.array([[0, 1, 1]], np.uint8), np.array([[2, 1, 2]], np.int32)
    cells, pixels = confusion(truth, guess, 2, 255)
    whole = totals([cells], [pixels], 2)
    assert (whole.right.tolist(), whole.true.tolist(), whole.guessed.tolist()) == ([[0, 1]], [[1, 2]], [[0, 1]])


def test_nothing_scored_is_no_cell() -> None:
    cells, pixels = confusion(np.full((3, 4), 255, np.uint8), np.zeros((3, 4), np.int32), 5, 255)
    assert len(cells) == len(pixels) == 0
    assert totals([cells], [pixels], 5).true.tolist() == [[0] * 5]


@pytest.mark.parametrize("turn", [np.asfortranarray, lambda x: x[::-1, ::-1], lambda x: x[:, ::2], np.transpose])
def test_the_layout_in_memory_does_not_matter(turn: Any) -> None:
    truth, guess = maps(3, 5, 255, np.uint8, (12, 9))
    found = matrix(turn(truth), turn(guess), 5, 255)
    assert np.array_equal(found, matrix(turn(truth).copy("C"), turn(guess).copy("C"), 5, 255))


def test_totals_are_the_margins_of_the_matrix_and_its_diagonal() -> None:
    some = [maps(seed, 5, 255, np.uint8, (8, 8)) for seed in range(3)]
    counts = [confusion(*pair, 5, 255) for pair in some]
    found = totals([cells for cells, _ in counts], [pixels for _, pixels in counts], 5)
    for i, pair in enumerate(some):
        whole = counted(*pair, 5, 255)
        assert np.array_equal(found.right[i], np.diag(whole)[:5])
        assert np.array_equal(found.true[i], whole.sum(1)[:5])
        assert np.array_equal(found.guessed[i], whole.sum(0)[:5])
    assert found.sum().true.tolist() == [found.true.sum(0).tolist()]
    assert isinstance(found.sum(), Totals) and found.sum().right.shape == (1, 5)
