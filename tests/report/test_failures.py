"""The worst images and the classes that are confused, of label maps whose mistakes are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ovseg.core import tables
from ovseg.datasets.benchmark import Benchmark, read_benchmark
from ovseg.evaluation.confusion import confusion
from ovseg.report.class_tables import worst_classes, worst_classes_section
from ovseg.report.failures import (
    Mistake,
    class_mistakes,
    describe_mistakes,
    ensemble_rows,
    image_mious,
    image_mistakes,
    worst_items,
)
from tests.evaluation.conftest import IGNORE, NAMES, draw_benchmark

GT = np.repeat(np.array([[0, 0, 0, 1]], np.uint8), 4, axis=0)  # 12 pixels of class 0, 4 of class 1
WRONG = np.repeat(np.array([[2, 2, 0, 1]], np.uint8), 4, axis=0)  # 8 of class 0 are predicted as class 2
IGNORED = np.full((4, 4), IGNORE, np.uint8)


@pytest.fixture
def benchmark(tmp_path: Path) -> Benchmark:
    return read_benchmark(draw_benchmark(tmp_path, 3))


@pytest.fixture
def rows(benchmark: Benchmark, tmp_path: Path) -> pa.Table:
    """An image without a mistake, one with, and one that is not scored; and rows of another model and classifier."""
    maps = [(1, GT, WRONG), (0, GT, GT), (2, IGNORED, GT)]
    written = [_row(item, "prompt", "ensemble", gt, pred) for item, gt, pred in maps]
    written += [_row(0, "prompt", "clip", GT, WRONG), _row(0, "base", "ensemble", GT, WRONG)]
    (tmp_path / "table").mkdir()
    tables.write_part(tmp_path / "table" / "00000.parquet", "segmentations", written, "f")
    return ensemble_rows(tmp_path / "table", "prompt")


def _row(item: int, model: str, classifier: str, gt: Any, pred: Any) -> dict[str, Any]:
    index, pixels = confusion(gt, pred, len(NAMES), IGNORE)
    row = {"item": item, "model": model, "threshold": 0.4, "classifier": classifier, "confusion_index": index}
    return {**row, "pixels": pixels, "gt_classes": None, "pred_classes": None}


def test_the_miou_of_an_image_is_over_its_classes_and_the_lowest_comes_first(
    rows: pa.Table, benchmark: Benchmark
) -> None:
    mious = image_mious(rows, benchmark)
    assert mious == {0: 1.0, 1: pytest.approx((4 / 12 + 1 + 0) / 3)}
    assert worst_items(mious, 1) == [1] and worst_items(mious, 5) == [1, 0]


def test_mistakes_are_fractions_of_the_scored_pixels_of_the_image(rows: pa.Table, benchmark: Benchmark) -> None:
    mistakes = image_mistakes(rows, benchmark, [0, 1])
    assert mistakes == {0: [], 1: [Mistake(NAMES[0], NAMES[2], 0.5)]}
    assert describe_mistakes(mistakes[1]) == f"{NAMES[0]} predicted as {NAMES[2]} (50%)"


def test_a_class_has_its_most_common_wrong_prediction_in_all_images(rows: pa.Table, benchmark: Benchmark) -> None:
    assert class_mistakes(rows, benchmark) == {0: Mistake(NAMES[0], NAMES[2], 8 / 24)}


def test_classes_that_share_a_name_keep_a_mistake_each_and_are_told_apart_by_their_synonyms(
    rows: pa.Table, benchmark: Benchmark
) -> None:
    named = replace(benchmark, names=(("bag",), ("bag", "purse", "handbag"), *benchmark.names[2:]))
    assert named.shown_names[:2] == ["bag", "bag (purse, handbag)"]
    index, pixels = confusion(GT, 1 - GT, len(NAMES), IGNORE)
    swapped = pa.table({"confusion_index": [index], "pixels": [pixels]})
    bag, purse = named.shown_names[:2]
    assert class_mistakes(swapped, named) == {0: Mistake(bag, purse, 1.0), 1: Mistake(purse, bag, 1.0)}


def test_the_worst_classes_are_the_lowest_of_the_metrics_with_ground_truth() -> None:
    columns = ("class", "seen", "gt_pixels", "base/ensemble", "prompt/ensemble")
    values = [("a", "yes", 60, "0.1", "0.9"), ("b", "no", 10, "0.2", "0.1"), ("c", "no", 30, "0.3", "0.1")]
    values += [("d", "no", 0, "", "0.0"), ("e", "no", 0, "", "")]
    rows = [dict(zip(columns, map(str, row), strict=True)) for row in values]
    assert worst_classes(rows, "prompt") == [2, 1, 0]
    assert worst_classes(rows, "prompt", 1) == [2]
    section = worst_classes_section(rows, "voc", ["base", "prompt"], {2: Mistake("c", "a", 0.25)})
    assert section.cells[0] == ["class", "seen", "pixels", "base", "prompt", "most predicted as"]
    assert section.cells[1] == ["c", "no", "30.00", "30.0", "10.0", "a (25%)"]
    assert section.cells[2][-1] == ""
