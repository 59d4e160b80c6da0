"""The table of the filters: its figures are those of the report, and of counting."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.pairs import CONFIRMED, NAME, RULE, VARIANTS, Outcome, Tables, compare, table
from experiments.tables import END, replace_table
from ovseg.report.quality import pair_quality
from tests.conftest import Mined


def test_the_paper_row_is_the_precision_of_the_report(mined: Mined, tmp_path: Path) -> None:
    """A second CLIP that is the same one confirms all pairs."""
    tables = Tables(mined.candidates, mined.proposals, mined.coco.instances, tmp_path)
    outcomes = compare(tables, second=mined.candidates)
    assert {*VARIANTS, *CONFIRMED} <= outcomes.keys()
    expected = pair_quality(mined.pairs, mined.proposals, mined.coco.instances, tmp_path)["pair_precision"]
    plain = outcomes[RULE]
    assert plain.correct / plain.judged == pytest.approx(expected)
    assert outcomes["`second_rank: 1`"] == plain == outcomes[f"second CLIP: {RULE}"]
    assert all(outcome.correct <= outcome.judged <= outcome.selected for outcome in outcomes.values())


def test_recall_is_of_the_correct_pairs_of_the_papers_rule() -> None:
    outcomes = {RULE: Outcome(1000, 800, 600), "`mutual`": Outcome(500, 400, 360)}
    rows = table(outcomes).splitlines()
    assert rows[2:] == [
        "| the paper's rule | 1,000 | 75.0 | 100.0 | 100.0 |",
        "| `mutual` | 500 | 90.0 | 60.0 | 20.0 |",
    ]
    begin = f"<!-- table: {NAME} -->\n"
    made = replace_table(f"a\n{begin}old{END}\nb", NAME, table(outcomes))
    assert made == f"a\n{begin}{table(outcomes)}\n{END}\nb"
