"""The DAG on the demo shrunk (recipes/tiny.yaml), in a fresh copy of the repository: what re-runs, and what does not."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ovseg.core.hashing import sha256_path
from ovseg.core.images import decode_image, decode_labels
from tests.copy import DVC, Copy, copy_repository, stages_ran

pytestmark = pytest.mark.slow

MINED = ("data/index", "data/nouns", "data/proposals", "data/candidates", "data/pairs", "shards")


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    copy = copy_repository(tmp_path_factory.mktemp("copy") / "ovseg")
    shutil.copyfile(copy.folder / "recipes" / "tiny.yaml", copy.folder / "params.yaml")
    copy.commit("tiny")
    copy.dvc("repro")
    copy.commit("run")
    return copy


def test_the_whole_dag_runs_from_nothing_and_mines_pairs(repo: Copy) -> None:
    metrics = json.loads((repo.folder / "reports" / "metrics.json").read_text())
    assert metrics["images"] == 48
    assert metrics["pairs"] == metrics["samples"] > 48
    assert metrics["noun_recall"] >= 0.98
    assert metrics["noun_precision"] >= 0.98
    assert len(list((repo.folder / "shards").glob("*.tar"))) == 4
    assert (repo.folder / "reports" / "pairs.html").stat().st_size > 10_000


def test_the_report_has_every_benchmark_model_and_classifier_by_both_rules(repo: Copy) -> None:
    reports = repo.folder / "reports"
    metrics = json.loads((reports / "metrics.json").read_text())
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
    outputs = [*MINED, "models/finetune", "models/prompt"]
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


def test_one_changed_threshold_reruns_select_and_what_follows_but_not_score(repo: Copy) -> None:
    found = stages_ran(repo.dvc("exp", "run", "-S", "select.min_area=200"))
    assert [name for name in found if name in ("select", "shards", "finetune", "prompt", "calibrate", "report")] == [
        "select",
        "shards",
        "finetune",
        "prompt",
        "calibrate",
        "report",
    ]
    assert {name for name in found if "@" in name} == {
        "measure@finetune",
        "measure@prompt",
        "evaluate@all",
        "evaluate@fine",
    }


def test_near_duplicates_are_looked_for_shown_and_left_out_if_parameters_say_so(
    repo: Copy, default: dict[str, Any]
) -> None:
    """The default has no such stage. Thresholds that any image meets stand for copies, which the drawn world has none of."""
    before, found = (repo.folder / "params.yaml").read_text(), "data/near_duplicates/found"
    settings = [f"{key}.near_duplicates={found}" for key in ("data", "select", "report")]
    settings += ["near_duplicates.max_distance=20", "near_duplicates.min_similarity=-1"]
    output = repo.dvc("exp", "run", *(word for setting in settings for word in ("-S", setting)))
    metrics = json.loads((repo.folder / "reports" / "metrics.json").read_text())
    page = (repo.folder / "reports" / "index.html").read_text()
    (repo.folder / "params.yaml").write_text(before)
    assert stages_ran(output)[:3] == ["data/near_duplicates/dvc.yaml:near_duplicates", "select", "shards"]
    near = metrics["near_duplicates"]
    assert near.keys() == {"data/demo/benchmark/all", "data/demo/benchmark/fine", "data/demo/val/all"}
    assert near["data/demo/benchmark/all"] == near["data/demo/benchmark/fine"]
    assert all(of_benchmark["images"] > 0 == of_benchmark["pairs"] for of_benchmark in near.values())
    assert metrics["dropped"]["select.near_duplicate"] == default["pairs"] - metrics["pairs"] > 0
    assert 'id="near-duplicates"' in page and "near_duplicates" not in default


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("select.min_similarity=abc", "select.min_similarity='abc' is not allowed: input should be a valid number"),
        ("select.min_similarity=7", "select.min_similarity=7 is not allowed: input should be less than or equal to 1"),
        ("+select.min_similarty=0.2", "unknown key 'select.min_similarty'; known: rule, min_similarity"),
    ],
)
def test_a_wrong_setting_of_an_experiment_fails_with_the_key_the_value_and_what_is_allowed(
    repo: Copy, setting: str, said: str
) -> None:
    before = (repo.folder / "params.yaml").read_text()
    done = repo.run(*DVC, "exp", "run", "-S", setting, check=False)
    (repo.folder / "params.yaml").write_text(before)
    assert done.returncode != 0
    assert said in done.stdout + done.stderr


def _provenance(repo: Copy, model: str) -> list[str]:
    text = (repo.folder / "models" / model / "provenance.json").read_text()
    return [step["stage"] for step in json.loads(text)["steps"]]


def test_the_default_finetunes_and_then_tunes_prompts_and_measures_both(repo: Copy) -> None:
    repo.dvc("repro")
    assert _provenance(repo, "prompt") == ["finetune", "prompt"]
    measured = {
        name: json.loads((repo.folder / "reports" / "measure" / name / "metrics.json").read_text())
        for name in ("base", "finetune", "prompt")
    }
    assert measured["base"].keys() == measured["finetune"].keys() == {"model"}
    prompted = measured["prompt"]
    assert prompted.keys() == {"model", "model_without_prompts"}
    assert {"mask_accuracy_annotated", "mask_accuracy_not_annotated"} <= prompted["model"].keys()


@pytest.mark.parametrize(
    ("settings", "ran", "stages"),
    [
        (["prompt.init=base", "finetune.init=prompt"], ["prompt", "finetune"], {"finetune": ["prompt", "finetune"]}),
        (["prompt.init=base", "prompt.tower_lr=1e-4"], ["prompt"], {"prompt": ["prompt"]}),
        (["prompt.epochs=0"], ["prompt"], {"prompt": ["finetune"]}),
        (["prompt.epochs=0", "finetune.epochs=0"], ["finetune", "prompt"], {"prompt": [], "finetune": []}),
    ],
)
def test_every_order_of_adaptation_comes_from_parameters_alone(
    repo: Copy, settings: list[str], ran: list[str], stages: dict[str, list[str]]
) -> None:
    """Prompts and then the tower; both at once; finetuning alone; nothing at all: mining is never run again."""
    repo.dvc("repro")
    before = (repo.folder / "params.yaml").read_text()
    output = repo.dvc("exp", "run", "finetune", "prompt", *(word for setting in settings for word in ("-S", setting)))
    (repo.folder / "params.yaml").write_text(before)
    assert stages_ran(output) == ran
    for model, steps in stages.items():
        assert _provenance(repo, model) == steps


@pytest.fixture(scope="module")
def default(repo: Copy) -> dict[str, Any]:
    """The metrics of the finished default run."""
    repo.dvc("repro")
    return dict(json.loads((repo.folder / "reports" / "metrics.json").read_text()))


@pytest.mark.parametrize("pairs", ["mined", "annotated"])
@pytest.mark.parametrize("method", ["maft", "maskclippp"])
def test_a_region_encoder_is_trained_measured_and_reported_without_mining_again(
    repo: Copy, default: dict[str, Any], method: str, pairs: str
) -> None:
    """By `dvc exp run` after the default run; `ovseg segment` then takes what was trained. One benchmark is enough."""
    before = (repo.folder / "params.yaml").read_text()
    settings = [f"finetune.method={method}", f"finetune.pairs={pairs}", "finetune.max_steps=1", "prompt.epochs=0"]
    settings += ["evaluate.models=[finetune]", "evaluate.benchmarks=[all]", "calibrate.limit=2"]
    output = repo.dvc("exp", "run", *(word for setting in settings for word in ("-S", setting)))
    metrics = json.loads((repo.folder / "reports" / "metrics.json").read_text())
    (repo.folder / "params.yaml").write_text(before)
    ran = stages_ran(output)
    assert ran[0] == "finetune" and ran[-1] == "report"
    assert {*ran[1:-1]} == {"prompt", "measure@finetune", "measure@prompt", "calibrate", "evaluate@all"}

    recipe = json.loads((repo.folder / "models" / "finetune" / "provenance.json").read_text())["steps"][0]["recipe"]
    assert (recipe["method"], recipe["pairs"]) == (method, pairs)
    assert (repo.folder / "models" / "prompt" / "region_encoder.json").is_file()  # what segment takes
    assert metrics["pairs"] == default["pairs"]
    assert metrics["measure"]["finetune"] == metrics["measure"]["prompt"] != default["measure"]["finetune"]
    assert metrics["benchmarks"]["all"].keys() == {"finetune"}
    found, of_crops = (figures["benchmarks"]["all"]["finetune"] for figures in (metrics, default))
    assert found["clip"] != of_crops["clip"] and found["proposals"] == of_crops["proposals"]

    image = next((repo.folder / "data" / "demo" / "val" / "images").iterdir())
    repo.run(
        sys.executable, "-m", "ovseg.cli.app", "segment", str(image), "--names", "kite, tree", "--out", "segmented"
    )
    labels = decode_labels((repo.folder / "segmented" / f"{image.stem}.labels.png").read_bytes())
    assert labels.shape == decode_image(image.read_bytes()).shape[:2]
    shutil.rmtree(repo.folder / "segmented")


def test_stages_that_wait_for_each_other_are_refused(repo: Copy) -> None:
    before = (repo.folder / "params.yaml").read_text()
    (repo.folder / "params.yaml").write_text(before.replace("  init: base", "  init: prompt", 1))
    done = repo.run(sys.executable, "-m", "stages.finetune", check=False)
    (repo.folder / "params.yaml").write_text(before)
    assert done.returncode != 0
    assert "finetune.init" in done.stderr and "prompt.init" in done.stderr


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
    assert _provenance(repo, "finetune") == ["finetune"]


def test_the_shards_of_the_dag_pass_verify(repo: Copy) -> None:
    repo.dvc("repro")
    done = repo.run(sys.executable, "-m", "ovseg.cli.mine", "verify", "shards")
    assert "all sound" in done.stdout


def test_a_benchmarks_missing_image_is_counted_and_fails_the_stage_unless_it_is_allowed(repo: Copy) -> None:
    repo.dvc("repro")
    before = (repo.folder / "params.yaml").read_text()
    gone = next((repo.folder / "data" / "demo" / "benchmark" / "images").iterdir())
    kept = gone.rename(repo.folder / gone.name)
    try:
        for missing, code in (("error", 1), ("allow", 0)):
            shutil.rmtree(repo.folder / "data" / "evaluate" / "all")
            (repo.folder / "params.yaml").write_text(before.replace("missing: error", f"missing: {missing}"))
            done = repo.run(sys.executable, "-m", "stages.evaluate", "all", check=False)
            assert done.returncode == code, done.stderr
            assert ("data/evaluate/all/failures" in done.stderr) == (code == 1)
            figures = json.loads((repo.folder / "reports" / "evaluate" / "all" / "metrics.json").read_text())
            assert figures["dropped"] == {"missing": 1} and figures["images"] == 7
    finally:
        kept.rename(gone)
        (repo.folder / "params.yaml").write_text(before)
