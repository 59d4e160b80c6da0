"""The variants of the paper's tables: params.yaml allows every one, and the tables use only these."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from experiments.paper import DOCUMENT, RESULTS, SEEDS, VARIANTS, command, document, main, read_runs
from experiments.paper_tables import TABLES, values
from ovseg.core.params import read_params
from tests.structure.imports import ROOT


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_parameters_of_a_variant_are_allowed(variant: str, tmp_path: Path) -> None:
    values = yaml.safe_load((ROOT / "recipes" / "demo.yaml").read_text(encoding="utf-8"))
    words = command(variant, 1)
    for change in (word for flag, word in pairwise(words) if flag == "-S"):
        key, _, value = change.partition("=")
        section, name = key.split(".")
        assert name in values[section]
        parsed = yaml.safe_load(value)
        values[section][name] = float(parsed) if isinstance(parsed, str) and parsed[0].isdigit() else parsed
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    assert read_params(path).finetune.seed == 1


def test_every_row_of_the_tables_has_a_variant_that_evaluates_its_model() -> None:
    for row in (row for table in TABLES for row in table.rows):
        models = next((c for c in VARIANTS[row.variant] if c.startswith("evaluate.models=")), row.model)
        assert row.model in models


def test_a_dry_run_prints_every_command_and_runs_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["--dry-run"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(SEEDS) * (len(VARIANTS) - 1)
    assert all(line.startswith("dvc exp run --temp --name paper-") for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_the_document_has_all_tables_with_empty_cells_where_nothing_was_run() -> None:
    text = document({})
    assert all(f"## {table.title}" in text for table in TABLES)
    assert "| OVSeg | 9.0 |  | 12.4 |  | 29.6 |  | 55.7 |  | 94.5 |  |" in text


def test_the_document_in_the_repository_is_made_from_the_stored_figures() -> None:
    """And every row has figures, so a renamed key would be noticed."""
    runs = read_runs(ROOT / RESULTS)
    assert (ROOT / DOCUMENT).read_text(encoding="utf-8") == document(runs)
    assert all(values(runs, row, column) for table in TABLES for row in table.rows for column in table.columns)
