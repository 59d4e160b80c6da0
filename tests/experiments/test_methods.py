"""The table of methods: its rows are allowed, and the document is made from the stored figures."""

from __future__ import annotations

import pytest

from experiments.methods import CROPS, DOCUMENT, RESULTS, ROWS, options_of, read_results, table, with_table
from ovseg.core.params import read_params
from tests.structure.imports import ROOT


@pytest.mark.parametrize("row", ROWS)
def test_the_parameters_of_a_row_are_allowed(row: str) -> None:
    finetune = read_params(ROOT / "recipes" / "demo.yaml").finetune
    assert options_of(finetune, row, 1).method != "crops"


def test_the_table_has_the_mean_and_the_deviation_over_seeds() -> None:
    figures = {"mask_accuracy": 0.5, "mask_accuracy_annotated": 0.6, "mask_accuracy_not_annotated": 0.4, "steps": 60}
    rows = table({"distilled": {"0": figures, "1": figures | {"mask_accuracy": 0.7}}}).splitlines()
    assert rows[2] == "| distilled | 60.0 ± 0.0 | 40.0 ± 0.0 | 60.0 ± 14.1 | 60 | 2 |"


def test_the_document_in_the_repository_is_made_from_the_stored_figures() -> None:
    text, results = (ROOT / DOCUMENT).read_text(encoding="utf-8"), read_results(ROOT / RESULTS)
    assert with_table(text, results) == text
    assert results.keys() <= {*CROPS, *ROWS}
