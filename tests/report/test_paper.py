"""The paper's tables beside ours: which run gives which cell, spread over seeds, and which comparisons come out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from ovseg.report.paper import ROLES, TABLES, Row, Table, comparisons, lines, markdown, shown, values
from ovseg.report.tables import sections


def run(**miou: float) -> dict[str, Any]:
    """A run whose ensemble has these mIoUs on every benchmark, by model."""
    models = {model: {"ensemble": {"miou": value}} for model, value in miou.items()}
    return {"benchmarks": dict.fromkeys(ROLES.values(), models)}


TABLE = Table("Table 0: a test", ("A-150",), (Row("a", (20.0,), "x", "base"), Row("b", (30.0,), "y", "prompt")))


def test_a_cell_is_the_mean_over_seeds_of_the_rows_variant_model_and_classifier() -> None:
    runs = {"x": [run(base=0.1), run(base=0.2)], "y": [run(prompt=0.5)]}
    assert values(runs, TABLE.rows[0], "A-150") == [10.0, 20.0]
    assert lines(TABLE, runs) == [
        ["Table 0", "A-150, paper", "all, ours"],
        ["a", "20.0", "15.0 ± 7.1"],
        ["b", "30.0", "50.0"],
    ]


def test_what_was_not_run_is_left_empty() -> None:
    assert lines(TABLE, {})[1] == ["a", "20.0", ""]
    assert shown([]) == ""


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
    runs: Mapping[str, Any] = {"x": [run(base=v) for v in first], "y": [run(prompt=v) for v in second]}
    assert comparisons(TABLE, runs)[1] == ["b - a", verdict]


def test_every_row_of_the_paper_has_a_figure_or_none_for_each_column_and_a_known_role() -> None:
    for table in TABLES:
        assert set(table.columns) <= set(ROLES)
        assert all(len(row.paper) == len(table.columns) for row in table.rows)


def test_markdown_has_a_header_a_rule_and_the_rows() -> None:
    assert markdown([["a", "b"], ["c", "1"]]) == "| a | b |\n| --- | ---: |\n| c | 1 |"


def test_the_papers_tables_stand_only_beside_the_demos_benchmarks() -> None:
    figures = {
        "miou": 0.5,
        "miou_gt": 0.6,
        "miou_interval": [0.4, 0.6],
    }
    models = {"base": dict.fromkeys(("clip", "proposals", "ensemble", "oracle_masks", "oracle_labels"), figures)}
    models["base"]["mask_accuracy"] = 0.7  # type: ignore[assignment]
    titles = [title for title, _, _ in sections({"benchmarks": {"ade150": models}}, {}, demo=False)]
    assert titles == ["Benchmarks", "Benchmark ade150"]
    rows = sections({"benchmarks": {"ade150": models}}, {}, demo=False)[0][2]
    assert rows == [["model", "ade150"], ["base", "50.0 (40.0 to 60.0)"]]
