"""Variants of the finished run by `dvc exp run -S`: what runs again, what it makes, and which settings are refused."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tests.copy import DVC, Copy, stages_ran

pytestmark = pytest.mark.slow


def test_one_changed_threshold_reruns_select_and_what_follows_but_not_score(repo: Copy) -> None:
    found = stages_ran(repo.experiment("select.min_area=200"))
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
        "embed@all",
        "embed@fine",
        "evaluate@all",
        "evaluate@fine",
    }


def test_other_templates_and_weights_embed_no_image_again(repo: Copy) -> None:
    """`embed` depends on the mask thresholds that `calibrate` chose (here from one), and on nothing else of it."""
    repo.dvc("repro")
    settings = ["segment.templates=none", "calibrate.weights=[0.0,1.0]"]
    assert stages_ran(repo.experiment(*settings, targets=["evaluate@all"])) == ["calibrate", "evaluate@all"]


def test_near_duplicates_are_looked_for_shown_and_left_out_if_parameters_say_so(
    repo: Copy, default: dict[str, Any]
) -> None:
    """The default has no such stage. Thresholds that any image meets stand for copies, which the drawn world has none of."""
    settings = [f"{key}.near_duplicates=data/near_duplicates/found" for key in ("data", "select", "report")]
    settings += ["near_duplicates.max_distance=20", "near_duplicates.min_similarity=-1"]
    settings += ["finetune.epochs=0", "prompt.epochs=0", "evaluate.models=[base]", "calibrate.limit=2"]  # saves time
    output = repo.experiment(*settings)
    metrics, page = repo.metrics(), (repo.folder / "reports" / "index.html").read_text()
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
    with repo.other_parameters():
        done = repo.run(*DVC, "exp", "run", "-S", setting, check=False)
    assert done.returncode != 0
    assert said in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("settings", "ran", "stages"),
    [
        (
            ["prompt.init=base", "finetune.init=prompt", "evaluate.models=[base,prompt,finetune]"],
            ["prompt", "finetune"],
            {"finetune": ["prompt", "finetune"]},
        ),
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
    assert stages_ran(repo.experiment(*settings, targets=["finetune", "prompt"])) == ran
    for model, steps in stages.items():
        assert repo.provenance(model) == steps


def test_stages_that_wait_for_each_other_are_refused(repo: Copy) -> None:
    with repo.other_parameters("  init: base", "  init: prompt"):
        done = repo.run(sys.executable, "-m", "stages.finetune", check=False)
    assert done.returncode != 0
    assert "finetune.init" in done.stderr and "prompt.init" in done.stderr
