"""The DAG on the demo shrunk (recipes/tiny.yaml): what a run makes, what an edit runs again, and what it does not."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ovseg.core.hashing import sha256_path
from tests.copy import Copy, stages_ran

pytestmark = pytest.mark.slow

MINED = ("data/index", "data/nouns", "data/proposals", "data/candidates", "data/pairs", "shards")


def test_the_whole_dag_runs_from_nothing_and_mines_pairs(repo: Copy) -> None:
    metrics = repo.metrics()
    assert metrics["images"] == 48
    assert metrics["pairs"] == metrics["samples"] > 48
    assert metrics["noun_recall"] >= 0.98
    assert metrics["noun_precision"] >= 0.98
    assert len(list((repo.folder / "shards").glob("*.tar"))) == 4
    assert (repo.folder / "reports" / "pairs.html").stat().st_size > 10_000


def test_the_report_has_every_benchmark_model_and_classifier_by_both_rules(repo: Copy) -> None:
    reports = repo.folder / "reports"
    metrics = repo.metrics()
    assert metrics["benchmarks"].keys() == {"all", "fine"}
    for models in metrics["benchmarks"].values():
        assert models.keys() == {"base", "finetune", "prompt"}
        for figures in models.values():
            for classifier in ("clip", "proposals", "ensemble", "oracle_masks", "oracle_labels"):
                assert {"miou", "miou_gt", "fwiou", "macc", "pacc"} <= figures[classifier].keys()
            assert "mask_accuracy" in figures and figures["choice"]["source"] == "calibrate on data/demo/val/all"
    assert "ar" in metrics["measure"]["proposal_network"]
    page = (reports / "index.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("<article") == 2 + 2 and len(list((reports / "overlays").glob("*.png"))) == 2
    assert "| model | all | fine |" in (reports / "tables.md").read_text()


def test_a_second_repro_does_nothing(repo: Copy) -> None:
    output = repo.dvc("repro")
    assert stages_ran(output) == []
    assert "up to date" in output


@contextmanager
def edited(repo: Copy, file: str, old: str, new: str) -> Iterator[None]:
    """The copy with a text of a source file replaced; afterwards as it was, which DVC checks out of its run cache."""
    path = repo.folder / "pipeline" / "ovseg" / file
    source = path.read_text(encoding="utf-8")
    assert old in source, file
    path.write_text(source.replace(old, new, 1), encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(source, encoding="utf-8")


def units_done_anew(output: str) -> dict[str, int]:
    """How many units each step did anew, by the line that ends the step."""
    ends = r"^(\w+): .* in [\d.]+ s(?: \((\d+) of (\d+) \w+ were done before\))? -> "
    return {
        step: int(total) - int(reused) if total else 1 for step, reused, total in re.findall(ends, output, re.MULTILINE)
    }


CODE = ("from __future__ import annotations\n", "from __future__ import annotations\n\nEDITED = 1\n")


def test_an_edit_of_the_report_reruns_the_report_alone(repo: Copy) -> None:
    repo.dvc("repro")
    with edited(repo, "report/page.py", *CODE):
        assert stages_ran(repo.dvc("repro")) == ["report"]


def test_an_edit_of_a_docstring_does_no_work_again(repo: Copy) -> None:
    """DVC starts the stages whose folders changed; they find all their work done, and their outputs stay the same.

    Only `index` looks at the images again: they are no part of its key.
    """
    repo.dvc("repro")
    parts = [str(path.relative_to(repo.folder)) for path in (repo.folder / "data" / "index").glob("*.parquet")]
    outputs = [*parts, *MINED[1:], "models/finetune", "models/prompt"]  # index's step.json names the copy's own folder
    before = {name: sha256_path(repo.folder / name) for name in outputs}
    with edited(repo, "core/crops.py", '"""', '"""Edited. '):
        output = repo.dvc("repro", "prompt")
        done = units_done_anew(output)
        assert done.keys() >= {"nouns", "score", "shards"}
        assert not any(units for step, units in done.items() if step != "index"), done
        assert "loss" not in output  # no training took a step
        assert {name: sha256_path(repo.folder / name) for name in outputs} == before


def test_an_edit_of_the_crop_recipe_scores_again_and_all_that_follows(repo: Copy) -> None:
    repo.dvc("repro")
    with edited(repo, "core/crops.py", *CODE):
        done = units_done_anew(repo.dvc("repro", "shards"))
        assert done["score"] > 0 and done["shards"] > 0
        assert done["nouns"] == done["select"] == 0
        status = json.loads(repo.dvc("status", "--json", "finetune"))
        assert any("shards" in json.dumps(change) for change in status["finetune"])


def test_the_default_finetunes_and_then_tunes_prompts_and_measures_both(repo: Copy) -> None:
    repo.dvc("repro")
    assert repo.provenance("prompt") == ["finetune", "prompt"]
    measured = {
        name: json.loads((repo.folder / "reports" / "measure" / name / "metrics.json").read_text())
        for name in ("base", "finetune", "prompt")
    }
    assert measured["base"].keys() == measured["finetune"].keys() == {"model"}
    prompted = measured["prompt"]
    assert prompted.keys() == {"model", "model_without_prompts"}
    assert {"mask_accuracy_annotated", "mask_accuracy_not_annotated"} <= prompted["model"].keys()


def test_a_training_stage_runs_in_two_processes(repo: Copy) -> None:
    """The stage starts torchrun by itself, and one result is written."""
    repo.dvc("repro")
    shutil.rmtree(repo.folder / "models" / "finetune")
    env = {**repo.env, "OVSEG_PROCESSES": "2", "OMP_NUM_THREADS": "1", "OVSEG_WORK": str(repo.folder.parent / "work2")}
    done = subprocess.run(
        [sys.executable, "-m", "stages.finetune"], cwd=repo.folder, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("-> models/finetune") == 1
    assert repo.provenance("finetune") == ["finetune"]


def test_the_shards_of_the_dag_pass_verify(repo: Copy) -> None:
    repo.dvc("repro")
    done = repo.run(sys.executable, "-m", "ovseg.cli.mine", "verify", "shards")
    assert "all sound" in done.stdout


def test_a_benchmarks_missing_image_is_counted_and_fails_the_stage_unless_it_is_allowed(repo: Copy) -> None:
    repo.dvc("repro")
    gone = next((repo.folder / "data" / "demo" / "benchmark" / "images").iterdir())
    kept = gone.rename(repo.folder / gone.name)
    try:
        for missing, code in (("error", 1), ("allow", 0)):
            shutil.rmtree(repo.folder / "data" / "evaluate" / "all")
            with repo.other_parameters("missing: error", f"missing: {missing}"):
                done = repo.run(sys.executable, "-m", "stages.evaluate", "all", check=False)
            assert done.returncode == code, done.stderr
            assert ("data/evaluate/all/failures" in done.stderr) == (code == 1)
            figures = json.loads((repo.folder / "reports" / "evaluate" / "all" / "metrics.json").read_text())
            assert figures["dropped"] == {"missing": 1} and figures["images"] == 7
    finally:
        kept.rename(gone)
