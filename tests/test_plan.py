"""`ovseg plan`: what a run would handle, take and write."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from ovseg.cli.app import app
from ovseg.cli.plans.amounts import amounts
from ovseg.cli.plans.data import MADE_OF, data_rows
from ovseg.cli.plans.rates import FILE, Machine, clip_of, facts, machine, network_of, rate
from ovseg.cli.plans.rows import Row
from ovseg.cli.plans.stages import memory, stage_rows
from ovseg.cli.plans.table import table, totals
from ovseg.core import tables
from ovseg.core.errors import OvsegError
from ovseg.core.params import Params
from ovseg.datasets.official import BENCHMARKS
from ovseg.engine.runtime import Runtime
from ovseg.mining.estimates import COCO_PAIRS, nouns_per_image, number_of_shards
from tests.conftest import ROOT

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
CPU, A100 = Machine(2), Machine(2, 1, "a100")


def changed(recipe: str, **changes: Any) -> Params:
    """A recipe with some values changed: `index__limit=5` is index.limit=5."""
    values = yaml.safe_load((ROOT / "recipes" / f"{recipe}.yaml").read_text(encoding="utf-8"))
    for name, value in changes.items():
        section, key = name.split("__")
        values[section][key] = value
    return Params.model_validate(values)


def rows_of(params: Params, on: Machine, root: Path) -> list[Row]:
    return [*data_rows(params, on, root), *stage_rows(params, amounts(params, root), on, root)]


def by_stage(params: Params, on: Machine, root: Path) -> dict[str, Row]:
    return {row.stage: row for row in rows_of(params, on, root)}


def seconds(row: Row) -> float:
    assert row.seconds is not None, row
    return row.seconds


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_the_plan_of_each_recipe_needs_nothing_but_the_recipe(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder with only params.yaml it is printed, with every stage of dvc.yaml, and nothing is written."""
    shutil.copy(recipe, tmp_path / "params.yaml")
    (tmp_path / "data" / "demo").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(app, ["plan"])
    assert found.exit_code == 0, found.output
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    shown = [line.split("  ")[0].split("@")[0] for line in found.output.splitlines()]
    assert [name for name in dict.fromkeys(shown) if name in stages] == list(stages)
    assert {path.name for path in tmp_path.rglob("*")} == {"params.yaml", "data", "demo"}


def test_a_plan_imports_no_torch() -> None:
    """It answers without what takes seconds to load."""
    code = "import sys; from typer.testing import CliRunner; from ovseg.cli.app import app\n"
    code += "found = CliRunner().invoke(app, ['plan', '--gpu', 'a100']); sys.exit(found.exit_code or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120).returncode == 0


@pytest.mark.parametrize("recipe", [path.stem for path in RECIPES])
@pytest.mark.parametrize("on", [CPU, A100, Machine(16, 4, "h100")], ids=lambda on: on.gpu)
def test_totals_are_the_sums_of_the_rows(recipe: str, on: Machine, tmp_path: Path) -> None:
    rows = rows_of(changed(recipe), on, tmp_path)
    all_ = totals(rows)
    assert all_.seconds == pytest.approx(sum(row.seconds or 0 for row in rows))
    assert all_.gpu + all_.cpu == pytest.approx(
        sum((row.seconds or 0) * row.devices for row in rows if row.on != "network")
    )
    assert all_.data + all_.outputs == pytest.approx(sum(row.writes or 0 for row in rows))
    assert all_.download == pytest.approx(sum(row.download or 0 for row in rows))
    assert (all_.gpu > 0) == bool(on.gpus and recipe.startswith("coco"))  # nobody has measured the demo on a GPU


def test_more_gpus_take_less_time_but_as_many_gpu_hours(tmp_path: Path) -> None:
    one, four = (totals(rows_of(changed("coco-vitl"), Machine(2, number, "a100"), tmp_path)) for number in (1, 4))
    assert one.gpu == pytest.approx(four.gpu) and one.seconds - four.seconds == pytest.approx(one.gpu * 3 / 4)


def test_the_papers_counts_come_out_of_the_papers_recipe(tmp_path: Path) -> None:
    """Images, pairs, shards and steps of METHODS, and the GPU-hours that it derives for mining."""
    stages = by_stage(changed("coco-vitl"), Machine(2, 1, "a5000"), tmp_path)
    assert stages["index"].handles == "118,287 images"
    assert "11,828,700 masks" in stages["propose"].handles
    assert "442,117 pairs" in stages["shards"].handles and "108 shards" in stages["shards"].files
    assert stages["finetune"].handles == "8,635 steps of 256 pairs"
    assert stages["proposal_network"].handles == "120,000 steps of 32"
    assert seconds(stages["propose"]) + seconds(stages["score"]) == pytest.approx(118_287 * 0.8, rel=0.001)


def test_the_demos_plan_comes_to_what_the_demo_took(tmp_path: Path) -> None:
    """15 min 11 s on two cores; what its benchmarks leave out of 200 images is the rest."""
    all_ = totals(rows_of(changed("demo"), CPU, tmp_path))
    assert all_.unknown == () and all_.download == 0 and all_.gpu == 0
    assert all_.seconds == pytest.approx(911, rel=0.05)


def test_limits_and_captions_change_all_that_follows(tmp_path: Path) -> None:
    every, few = (by_stage(changed("coco-vitl", index__limit=limit), A100, tmp_path) for limit in (None, 1183))
    for name in ("index", "nouns", "propose", "score", "shards", "finetune", "prompt"):
        assert seconds(few[name]) == pytest.approx(seconds(every[name]) / 100, rel=0.02), name
    for name in ("proposal_network", "calibrate", "evaluate@ade150"):
        assert few[name] == every[name]
    five = amounts(changed("coco-vitl", nouns__captions_per_image="all"), tmp_path)
    assert five.captions == 5 * 118_287 and five.pairs == COCO_PAIRS[5]


def test_what_is_passed_through_takes_no_time(tmp_path: Path) -> None:
    none = by_stage(
        changed("coco-vitl", finetune__epochs=0, prompt__max_steps=0, proposal_network__steps=0), A100, tmp_path
    )
    for name, init in (("finetune", "base"), ("prompt", "finetune")):
        assert seconds(none[name]) == 0 and none[name].handles == f"passes models/{init} through"
    assert seconds(none["proposal_network"]) < 300 and none["proposal_network"].download == 0
    assert by_stage(changed("coco-vitl", finetune__max_steps=7), A100, tmp_path)["finetune"].handles.startswith("7 ")


def test_prompts_before_the_tower_come_first(tmp_path: Path) -> None:
    stages = list(by_stage(changed("demo", finetune__init="prompt", prompt__init="base"), CPU, tmp_path))
    assert stages.index("prompt") < stages.index("finetune")


def test_models_thresholds_and_benchmarks_multiply_the_crops(tmp_path: Path) -> None:
    three = by_stage(changed("demo"), CPU, tmp_path)
    one = by_stage(changed("demo", evaluate__models=["base"], calibrate__thresholds=[0.4]), CPU, tmp_path)
    assert "100 images, 18,000 crops" in three["calibrate"].handles and "2,000 crops" in one["calibrate"].handles
    assert "200 images, 12,000 crops" in three["evaluate@all"].handles and "4,000 crops" in one["evaluate@all"].handles


def test_an_absent_rate_is_said_and_not_added(tmp_path: Path) -> None:
    """ViT-L on a CPU, SAM 2 on a GPU, an unknown CLIP: nobody has measured them."""
    for params, on, stage in (
        (changed("coco-vitl"), CPU, "score"),
        (changed("coco-vitl", propose__source="sam2", propose__model="facebook/sam2.1-hiera-large"), A100, "propose"),
        (changed("coco-vitl", clip__model="ViT-H-14"), A100, "finetune"),
        (changed("coco-vitl", score__precision="fp32"), A100, "score"),
        (changed("coco-vitl"), Machine(2, 1, "tesla p4"), "finetune"),
    ):
        rows = rows_of(params, on, tmp_path)
        row = next(row for row in rows if row.stage == stage)
        assert row.seconds is None and "not known" in row.sources
        text = table(rows, on, memory(params))
        assert re.search(rf"^{stage} .*not known", text, re.MULTILINE)
        counted = text.split("Not known, and not counted:")[1]
        assert stage in counted


def test_what_cannot_be_downloaded_without_an_account_is_said(tmp_path: Path) -> None:
    part = by_stage(changed("coco-vitl"), A100, tmp_path)["ade20k: ade847"]
    assert part.download is None and part.seconds is None and "account" in part.handles
    assert not [row for row in rows_of(changed("demo"), CPU, tmp_path) if row.on == "network"]


def test_data_of_ones_own_is_counted_in_the_index_or_not_at_all(tmp_path: Path) -> None:
    watched = {"data__images": "mine", "data__captions": "mine"}
    own = changed("coco-vitl", index__images="mine/images", index__captions="mine/captions.json", **watched)
    before = by_stage(own, A100, tmp_path)
    assert before["index"].handles == before["finetune"].handles == "not known until the index is made"
    assert totals(list(before.values())).unknown and "not known" in table(list(before.values()), A100, None)
    (tmp_path / "data/index").mkdir(parents=True)
    account = {"fingerprint": "0", "files": {}, "counts": {"images": 1000, "captions": 2000}}
    (tmp_path / "data/index" / tables.STEP_MANIFEST).write_text(json.dumps(account), encoding="utf-8")
    assert by_stage(own, A100, tmp_path)["index"].handles == "1,000 images"
    every = changed(
        "coco-vitl",
        index__images="mine/images",
        index__captions="mine/captions.json",
        nouns__captions_per_image="all",
        index__limit=10,
        **watched,
    )
    assert amounts(every, tmp_path).captions == 20


def test_a_benchmark_that_is_there_is_counted(tmp_path: Path) -> None:
    folder = tmp_path / "data/demo/benchmark/novel"
    folder.mkdir(parents=True)
    (folder / "items.tsv").write_text("image\tlabel\n" + "a\tb\n" * 135, encoding="utf-8")
    assert "135 images" in by_stage(changed("demo"), CPU, tmp_path)["evaluate@novel"].handles
    few = changed("demo", demo__benchmark=8)
    assert "8 images" in by_stage(few, CPU, tmp_path)["evaluate@novel"].handles, "it will be drawn anew"


def test_the_machine_is_what_is_asked_for_then_what_is_here_then_one_a100() -> None:
    here = Runtime(("cpu",), workers=8)
    assert machine(here, None, None, small=True) == Machine(8, 0, "cpu", "of this machine")
    assert replace(machine(here, None, None, small=False), why="") == Machine(8, 1, "a100")
    assert replace(machine(here, None, 4, small=True), why="") == Machine(8, 4, "a100")
    assert replace(machine(here, "H100", 2, small=True), why="") == Machine(8, 2, "h100")
    assert machine(here, "cpu", 2, small=False).gpus == 0
    with pytest.raises(OvsegError, match="'k80' is not known: a100"):
        machine(here, "k80", None, small=True)


def test_a_rate_of_just_this_gpu_comes_before_an_estimate() -> None:
    for gpu, word in (("a5000", "stated"), ("a100", "estimated")):
        found = rate("score", "ViT-L-14", Machine(2, 1, gpu))
        assert found is not None and found.source.startswith(word)
    slow, fast = (rate("finetune", "ViT-B-16", Machine(2, 1, gpu)) for gpu in ("a100", "h100"))
    assert slow is not None and fast is not None and fast.per_second > 3 * slow.per_second


def test_every_rate_says_where_it_is_from_and_files_that_are_named_are_there() -> None:
    for one in facts()["rates"]:
        assert one["source"].startswith(("measured:", "stated:")) and one["per_second"] > 0, one
        for name in re.findall(r"(?:benchmarks|recipes)/\S+\.(?:json|yaml)", one["source"]):
            assert (ROOT / name).is_file(), name
    assert all(f"{name}_source" in facts() for name in ("gpus", "share", "models", "passes")), FILE


def test_rates_that_benchmarks_measured_are_theirs() -> None:
    """A benchmark that is run again must be copied here."""
    folder = ROOT / "benchmarks/results"
    for work, file, index, key in (
        ("score", "score", 0, "ours crops/s"),
        ("finetune", "train", 0, "samples/s"),
        ("prompt", "train", 3, "samples/s"),
    ):
        rows = json.loads((folder / f"{file}-intel-xeon-2c.json").read_text(encoding="utf-8"))["rows"]
        found = rate(work, "ViT-B-16", CPU)
        assert found is not None and found.per_second * 2 == pytest.approx(rows[index][key], rel=0.01)


def test_what_benchmarks_are_converted_from_is_as_the_dag_says() -> None:
    assert set(MADE_OF) == set(BENCHMARKS)
    for name, (dataset, parts) in MADE_OF.items():
        convert = yaml.safe_load((ROOT / "data" / dataset / "dvc.yaml").read_text(encoding="utf-8"))["stages"][
            "convert"
        ]
        assert name in convert["matrix"]["benchmark"]
        deps = [dep.replace("${item.benchmark}", name) for dep in convert["deps"] if "/manifests/" in dep]
        assert deps == [f"data/{dataset}/manifests/{part}.tsv" for part in parts]


def test_models_of_the_recipes_are_known() -> None:
    for recipe in RECIPES:
        params = changed(recipe.stem)
        assert clip_of(params.clip.model) and network_of(params.proposal_network.backbone, params.proposal_network.init)


def test_too_small_a_gpu_is_said() -> None:
    assert "MORE THAN THE 24 GB" in table([], Machine(2, 1, "l4"), (30.0, "finetune"))
    need = memory(changed("coco-vitl"))
    assert need is not None and need[0] == pytest.approx(5.36, rel=0.01) and need[1] == "finetune"


def test_nouns_lie_on_the_line_through_what_the_paper_counted() -> None:
    assert [round(nouns_per_image(number) * 118_287) for number in COCO_PAIRS] == list(COCO_PAIRS.values())
    assert COCO_PAIRS[1] < nouns_per_image(3) * 118_287 < COCO_PAIRS[5]
    assert (number_of_shards(442_117, 4096, 64), number_of_shards(10, 4096, 64)) == (108, 10)
