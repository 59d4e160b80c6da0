"""Rounds of mining: rows are allowed, each round scores with the CLIP of the one before, and the document is up to date."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments import rounds
from experiments.method_runs import CANDIDATES, FINETUNED
from experiments.rounds import DOCUMENT, NAME, ROUNDS, ROWS, RULE, candidates_of, table
from experiments.tables import replace_table
from ovseg.core.options import SelectOptions
from ovseg.core.params import read_params
from ovseg.engine.runtime import Runtime
from tests.structure.imports import ROOT

RUN = {
    "pairs": 1200,
    "precision": 0.815,
    "mask_accuracy": {"all": 0.5},
    "benchmarks": {name: {"miou": 0.2} for name in ("annotated", "mixed", "novel", "all", "fine")},
}


@pytest.mark.parametrize("row", ROWS)
def test_the_parameters_of_a_row_are_allowed(row: str) -> None:
    assert SelectOptions(**ROWS[row].select).model_dump().items() >= ROWS[row].select.items()


def test_each_round_scores_with_the_clip_of_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: Runtime
) -> None:
    """The second with the CLIP that the run has finetuned, the third with the one that the second has."""
    scored: list[str] = []

    def note(*arguments: Any) -> None:
        scored.append(arguments[6].model)

    monkeypatch.setattr(rounds, "score_nouns", note)
    params = read_params(ROOT / "recipes" / "demo.yaml")
    assert candidates_of(params, 1, tmp_path, runtime) == CANDIDATES and not scored
    assert candidates_of(params, 2, tmp_path, runtime) != candidates_of(params, 3, tmp_path, runtime)
    assert scored == [f"local-dir:{FINETUNED}", f"local-dir:{tmp_path / 'second-round-0' / 'finetune'}"]
    assert all(ROWS[row].round == number and not ROWS[row].select for number, row in ROUNDS.items())


def test_the_table_has_the_mean_over_seeds_and_no_precision_where_none_is_known() -> None:
    rule = {key: RUN[key] for key in ("mask_accuracy", "benchmarks")}
    lines = table({RULE: {"0": rule}, "second round": {"0": RUN, "1": RUN}}).splitlines()
    assert lines[2] == f"| {RULE} |  |  | 50.0 | {'20.0 | ' * 5}1 |"
    assert lines[3] == f"| second round | 1,200 | 81.5 | 50.0 ± 0.0 | {'20.0 ± 0.0 | ' * 5}2 |"


def test_the_row_of_the_paper_s_rule_has_the_pairs_of_the_run_and_each_other_row_stored_figures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A row without stored figures would start hours of training when the command of the document runs."""
    monkeypatch.chdir(ROOT)
    results = rounds.read_results()
    assert list(results) == [RULE, *ROWS]
    assert all(figures["pairs"] == 8702 and 0.74 < figures["precision"] < 0.75 for figures in results[RULE].values())
    assert all(set(by_seed) == {"0", "1", "2"} for by_seed in results.values())


def test_the_document_in_the_repository_is_made_from_the_stored_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = DOCUMENT.read_text(encoding="utf-8")
    assert replace_table(text, NAME, table(rounds.read_results())) == text
