"""The series of the paper's tables: every variant is one that params.yaml allows, and the tables know it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from experiments.paper import SEEDS, VARIANTS, command, document, main
from ovseg.core.params import read_params
from ovseg.report.paper import TABLES
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


def test_every_row_of_the_tables_is_of_a_variant_that_is_run_with_that_model() -> None:
    for row in (row for table in TABLES for row in table.rows):
        models = next((c for c in VARIANTS[row.variant] if c.startswith("evaluate.models=")), row.model)
        assert row.model in models


def test_a_dry_run_says_every_command_and_runs_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["--dry-run"])
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1 + len(SEEDS) * (len(VARIANTS) - 1)
    assert all(line.startswith("dvc exp run --temp --name paper-") for line in said)
    assert list(tmp_path.iterdir()) == []


def test_the_document_has_all_tables_and_leaves_what_was_not_run_empty() -> None:
    text = document({})
    assert all(f"## {table.title}" in text for table in TABLES)
    assert "| OVSeg | 9.0 |  | 12.4 |  | 29.6 |  | 55.7 |  | 94.5 |  |" in text
