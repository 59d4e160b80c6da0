"""The paper's tables beside ours: which run gives which cell, the deviation over seeds, and the verdict of comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from experiments import paper_tables
from experiments.paper_tables import (
    ROLES,
    TABLES,
    Row,
    Table,
    comparison_cells,
    count_verdicts,
    mean_and_deviation,
    table_cells,
    values,
)


def run_with(**miou: float) -> dict[str, Any]:
    """A run whose ensemble has these mIoUs on every benchmark, by model."""
    models = {model: {"ensemble": {"miou": value}} for model, value in miou.items()}
    return {"benchmarks": dict.fromkeys(ROLES.values(), models)}


TABLE = Table("Table 0: a test", ("A-150",), (Row("a", (20.0,), "x", "base"), Row("b", (30.0,), "y", "prompt")))


def test_a_cell_is_the_mean_over_the_seeds_of_its_variant_model_and_classifier() -> None:
    runs = {"x": [run_with(base=0.1), run_with(base=0.2)], "y": [run_with(prompt=0.5)]}
    assert values(runs, TABLE.rows[0], "A-150") == [10.0, 20.0]
    assert table_cells(TABLE, runs) == [
        ["Table 0", "A-150, paper", "all, ours"],
        ["a", "20.0", "15.0 ± 7.1"],
        ["b", "30.0", "50.0"],
    ]


def test_cells_without_a_run_are_empty() -> None:
    assert table_cells(TABLE, {})[1] == ["a", "20.0", ""]
    assert mean_and_deviation([]) == ""


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ([0.10, 0.11, 0.12], [0.20, 0.21, 0.22], "+10.0 / +10.0: yes"),
        ([0.20, 0.21, 0.22], [0.10, 0.11, 0.12], "+10.0 / -10.0: no"),
        ([0.10, 0.20, 0.30], [0.15, 0.22, 0.26], "+10.0 / +1.0: undecided"),
        ([0.10], [0.15, 0.22, 0.26], "+10.0 / +11.0: one seed"),
    ],
)
def test_a_comparison_is_decided_only_beyond_twice_its_standard_error(
    first: list[float], second: list[float], verdict: str
) -> None:
    runs: Mapping[str, Any] = {"x": [run_with(base=v) for v in first], "y": [run_with(prompt=v) for v in second]}
    assert comparison_cells(TABLE, runs)[1] == ["b - a", verdict]


def test_a_difference_of_zero_in_the_paper_has_no_verdict() -> None:
    equal = replace(TABLE, rows=(TABLE.rows[0], replace(TABLE.rows[1], paper=(20.0,))))
    runs = {"x": [run_with(base=0.1)] * 2, "y": [run_with(prompt=0.2)] * 2}
    assert comparison_cells(equal, runs)[1] == ["b - a", "+0.0 / +10.0"]


def test_a_difference_that_stands_in_several_tables_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    renamed = tuple(replace(row, name=row.name.upper()) for row in reversed(TABLE.rows))
    monkeypatch.setattr(paper_tables, "TABLES", (TABLE, replace(TABLE, rows=renamed)))
    runs = {"x": [run_with(base=0.1)] * 2, "y": [run_with(prompt=0.2)] * 2}
    assert count_verdicts(runs) == {"yes": 1}


def test_every_row_of_the_paper_has_a_figure_or_none_for_each_column_and_a_known_role() -> None:
    for table in TABLES:
        assert set(table.columns) <= set(ROLES)
        assert all(len(row.paper) == len(table.columns) for row in table.rows)
