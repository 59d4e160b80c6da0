"""Prompts after finetuning: what is trained on what, groups of masks by blank patches, and the document is up to date."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments import prompts
from experiments.method_runs import BASE, FINETUNED, PROMPTED
from experiments.methods import slug
from experiments.prompts import DOCUMENT, NAME, RESULTS, ROWS, table, trained_clip, with_all
from experiments.tables import read_figures, replace_table
from ovseg.core.options import FinetuneOptions
from ovseg.core.params import read_params
from ovseg.engine.runtime import Runtime
from tests.structure.imports import ROOT


@pytest.mark.parametrize("row", ROWS)
def test_the_parameters_of_a_row_are_allowed(row: str) -> None:
    changed = read_params(ROOT / "recipes" / "demo.yaml").finetune.model_dump() | dict(ROWS[row])
    assert FinetuneOptions.model_validate(changed).model_dump().items() >= dict(ROWS[row]).items()


def test_prompts_are_trained_on_the_finetuned_clip_of_their_row(
    tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models of the run itself are not trained again; every other one has a folder of its own."""
    trained: list[tuple[Path, Path]] = []

    def note(init: Path, _shards: Path, out: Path, *_: Any) -> None:
        trained.append((init, out))

    monkeypatch.setattr(prompts, "adapt", note)
    params = read_params(ROOT / "recipes" / "demo.yaml")
    assert trained_clip(params, ROWS["3 epochs"], 0, 0, tmp_path, runtime) == FINETUNED
    assert trained_clip(params, ROWS["3 epochs"], 0, params.prompt.depth, tmp_path, runtime) == PROMPTED
    assert not trained
    assert trained_clip(params, ROWS["3 epochs"], 0, 6, tmp_path, runtime) == tmp_path / "prompt-6"
    assert trained == [(FINETUNED, tmp_path / "prompt-6")]
    trained.clear()
    assert trained_clip(params, ROWS["1 epoch"], 0, 3, tmp_path, runtime) == tmp_path / "prompt-3"
    assert trained == [(BASE, tmp_path / "finetune"), (tmp_path / "finetune", tmp_path / "prompt-3")]
    assert trained_clip(params, ROWS["3 epochs"], 1, 0, tmp_path, runtime) == tmp_path / "finetune"
    assert len({slug(row) for row in ROWS}) == len(ROWS)


def test_the_table_has_what_prompts_add_to_the_clip_of_the_same_seed() -> None:
    def run(of_none: float, of_three: float) -> dict[str, Any]:
        return {
            str(d): with_all({"0 to 5%": {"masks": 2, "mask_accuracy": a}}) for d, a in ((0, of_none), (3, of_three))
        }

    lines = table({"1 epoch": {"0": run(0.5, 0.51), "1": run(0.6, 0.63)}}).splitlines()
    assert lines[0] == "| finetuning | prompts in | all | 0 to 5% blank | seeds |"
    assert lines[2] == "| 1 epoch | none | 55.0 ± 7.1 | 55.0 ± 7.1 | 2 |"
    assert lines[3] == "|  | 3 layers | +2.0 ± 1.4 | +2.0 ± 1.4 | 2 |"


def test_all_counts_every_mask_once() -> None:
    groups = {"a": {"masks": 30, "mask_accuracy": 0.5}, "b": {"masks": 10, "mask_accuracy": 0.9}}
    assert with_all(groups) == {"all": {"masks": 40, "mask_accuracy": 0.6}, **groups}


def test_the_document_in_the_repository_is_made_from_the_stored_figures() -> None:
    text = (ROOT / DOCUMENT).read_text(encoding="utf-8")
    assert replace_table(text, NAME, table(read_figures(ROOT / RESULTS, ROWS))) == text
    assert (
        not (ROOT / RESULTS).is_file() or json.loads((ROOT / RESULTS).read_text(encoding="utf-8")).keys() <= ROWS.keys()
    )
