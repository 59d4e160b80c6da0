"""The benchmark of `score` compares the same units with the table `regions` and without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import inputs, score
from ovseg.core.options import ClipOptions
from ovseg.engine.runtime import Runtime
from ovseg.mining.regions import FOLDER
from tests.conftest import Toys


def test_each_turn_scores_all_units_once_with_the_table_of_regions_and_once_without(
    toys: Toys, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score, "CLIP", ClipOptions(model=f"local-dir:{toys.clip}"))
    tables = score.make_tables(inputs.images(tmp_path / "data", 2), tmp_path, runtime)
    pair = score._with_and_without_regions(tables, "fp32", tmp_path / "out", runtime)
    rates = [variant(turn) for turn in range(2) for variant in pair.values()]
    assert all(rate > 0 for rate in rates)
    written = {kept: sorted((tmp_path / "out" / kept).iterdir()) for kept in ("candidates", "none")}
    assert list(pair) == [f"regions of {kept}" for kept in written]
    assert {kept: [(run / FOLDER).is_dir() for run in runs] for kept, runs in written.items()} == {
        "candidates": [True, True],
        "none": [False, False],
    }
