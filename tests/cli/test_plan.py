"""Plans: amounts follow from the parameters, times from amounts and rates, and what is not known stays unknown."""

from __future__ import annotations

import hashlib
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from ovseg.cli import plan
from ovseg.cli.app import app
from ovseg.cli.plan import Machine, Row, facts, format_plan, plan_pipeline
from ovseg.clip import pooled_regions
from ovseg.clip.adapted import load_adapted
from ovseg.clip.embedding_files import EmbeddingFile, embedding_file, write_embeddings
from ovseg.core.params import Params
from ovseg.datasets.official import BENCHMARKS, PARTS, published
from ovseg.evaluation import prediction_store, region_table
from ovseg.evaluation.prediction_store import predict
from ovseg.proposals.backbone import STRIDE
from ovseg.proposals.network import SIZE_DIVISOR
from ovseg.proposals.network_folder import load_network
from tests.conftest import ROOT, Coco, Toys
from tests.toys import QUERIES, noise

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
CPU, A100 = Machine(2), Machine(2, "a100")
PLENTY = 10**15
LEFT_OUT = {"measure", "report"}


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is downloaded or mined yet."""
    monkeypatch.chdir(tmp_path)


def changed(recipe: str, **changes: Any) -> Params:
    """A recipe with some values changed: `index__limit=5` is index.limit=5."""
    values = yaml.safe_load((ROOT / "recipes" / f"{recipe}.yaml").read_text(encoding="utf-8"))
    for name, value in changes.items():
        section, key = name.split("__")
        values[section][key] = value
    return Params.model_validate(values)


def by_step(params: Params, machine: Machine) -> dict[str, Row]:
    return {row.step: row for row in plan_pipeline(params, machine)}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_plan_needs_nothing_but_the_recipe_and_has_every_stage(recipe: Path, tmp_path: Path) -> None:
    shutil.copy(recipe, tmp_path / "params.yaml")
    (tmp_path / "data" / "demo").mkdir(parents=True)  # a section of params.yaml may be that of a data set's folder
    done = CliRunner().invoke(app, ["plan"])
    assert done.exit_code == 0, done.output
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"].keys() - LEFT_OUT
    assert stages <= {line.split(" ")[0].split("@")[0] for line in done.output.splitlines()}
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["params.yaml"]


def test_a_plan_imports_no_torch() -> None:
    """It answers without what takes seconds to load."""
    code = "import sys; from typer.testing import CliRunner; from ovseg.cli.app import app\n"
    code += (
        "done = CliRunner().invoke(app, ['plan', '--gpu', 'a100']); sys.exit(done.exit_code or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120).returncode == 0


def test_kept_regions_take_two_bytes_a_component() -> None:
    """Of at most top_k masks of each noun, or of all masks if those are fewer; a folder's config says the width. With "all" 4
    more bytes a component are in the scratch folder."""
    clip = ROOT / "data" / "demo" / "clip"
    folder = {"clip__model": f"local-dir:{clip}", "data__clip": str(clip)}
    for recipe, changes, width in (("coco-vitl", {}, 768), ("coco-vitb", {}, 512), ("coco-vitb", folder, 192)):
        every, kept, dropped = (
            by_step(changed(recipe, **changes, score__keep_regions=keep), A100)
            for keep in ("all", "candidates", "none")
        )
        regions = min(kept["score"].amount, 5 * kept["select"].amount)
        least = (kept["score"].disk - dropped["score"].disk) / regions
        assert 2 * width < least < 2 * width + 16
        of_each = (every["score"].disk - dropped["score"].disk) / every["score"].amount
        assert of_each == pytest.approx(least + 4 * width)


@pytest.mark.parametrize("recipe", [path.stem for path in RECIPES])
@pytest.mark.parametrize("machine", [CPU, A100], ids=lambda machine: machine.device)
def test_totals_are_the_sums_of_what_is_known(recipe: str, machine: Machine) -> None:
    rows = plan_pipeline(changed(recipe), machine)
    known = [row._replace(seconds=0, download=0) for row in rows if not math.isnan(row.disk)]
    total = sum(row.disk for row in known)
    assert f"{total / 1e9:.1f} GB" in format_plan(rows, machine, PLENTY) or total < 5e7
    one = Row("all", 1, "", 0, total)
    assert format_plan(known, machine, PLENTY).count("unknown") == 0
    line = re.compile("^total.*", re.MULTILINE)
    totals = [line.findall(format_plan(of, machine, PLENTY)) for of in (known, [one])]
    assert totals[0] == totals[1]


def test_every_amount_time_and_size_grows_with_the_images() -> None:
    few, many = (by_step(changed("coco-vitl", index__limit=limit), A100) for limit in (1_000, 100_000))
    for step in ("index", "nouns", "propose", "score", "select", "shards", "finetune", "prompt"):
        assert few[step].amount < many[step].amount and few[step].seconds < many[step].seconds, step
    for step in ("index", "nouns", "propose", "score", "select", "shards"):
        assert many[step].disk == pytest.approx(100 * few[step].disk), step
    for step in ("proposal_network", "calibrate", "evaluate@ade150"):
        assert few[step] == many[step]


def test_the_papers_recipe_has_the_papers_counts() -> None:
    """118,287 images, 100 proposals of each, and 442,117 pairs from one caption of each or 1.3 million from all (table 2)."""
    one = by_step(changed("coco-vitl"), Machine(2, "a5000"))
    assert one["index"].amount == 118_287 and one["score"].amount == 100 * 118_287
    assert one["shards"].amount == pytest.approx(442_117, rel=1e-4)
    assert one["propose"].seconds + one["score"].seconds == pytest.approx(0.8 * 118_287, rel=1e-3)
    five = by_step(changed("coco-vitl", nouns__captions_per_image="all"), A100)
    assert five["nouns"].amount == 5 * 118_287 and five["shards"].amount == pytest.approx(1.3e6, rel=1e-3)


def test_more_gpus_and_cores_divide_the_time_of_their_steps() -> None:
    one, eight = (by_step(changed("coco-vitl"), Machine(number, "a100", number)) for number in (1, 8))
    for step in ("index", "nouns", "propose", "score", "finetune", "evaluate@ade150", "convert@pc59"):
        assert eight[step].seconds == pytest.approx(one[step].seconds / 8), step


def test_a_step_that_does_nothing_takes_no_time() -> None:
    changes = {"finetune__epochs": 0, "prompt__max_steps": 0, "proposal_network__steps": 0}
    rows = by_step(changed("coco-vitl", **changes), A100)
    assert [rows[step].seconds for step in ("finetune", "prompt", "proposal_network")] == [0, 0, 0]
    assert rows["proposal_network"].download == 0
    few = by_step(changed("coco-vitl", finetune__max_steps=7), A100)["finetune"]
    assert few.amount == 7 * changed("coco-vitl").finetune.batch_size


def test_models_thresholds_and_queries_multiply_the_masks() -> None:
    base = {"calibrate__thresholds": [0.4], "evaluate__models": ["base"]}
    one, six = (
        by_step(changed("coco-vitb", **changes), A100)
        for changes in (base, {"calibrate__thresholds": [0.3, 0.4], "evaluate__models": ["base", "finetune", "prompt"]})
    )
    assert six["embed_heldout"].amount == 6 * one["embed_heldout"].amount
    assert six["embed@ade150"].amount == 3 * one["embed@ade150"].amount


@pytest.mark.parametrize(
    ("changes", "machine", "steps"),
    [
        ({}, CPU, {"score", "finetune", "prompt"}),
        ({}, Machine(2, "tesla p4"), {"propose", "score", "finetune"}),
        ({"clip__model": "ViT-H-14"}, A100, {"score", "finetune", "prompt"}),
        ({"score__precision": "fp32"}, A100, {"score"}),
        ({"propose__source": "sam2", "propose__model": "facebook/sam2.1-hiera-large"}, A100, {"propose"}),
    ],
)
def test_a_time_without_a_rate_stays_unknown(changes: dict[str, Any], machine: Machine, steps: set[str]) -> None:
    """ViT-L on a CPU, a GPU without rates, another CLIP, precision or source: nobody has measured them."""
    rows = plan_pipeline(changed("coco-vitl", **changes), machine)
    text = format_plan(rows, machine, PLENTY).splitlines()
    for row in (row for row in rows if row.step in steps):
        assert math.isnan(row.seconds), row.step
        assert any(line.startswith(f"{row.step} ") and "unknown" in line for line in text)


def test_unknown_images_make_all_that_follows_unknown(coco: Coco) -> None:
    own = {"index__images": "mine/images", "index__captions": "mine/captions.json"}
    own |= {"data__images": "mine/images", "data__captions": "mine/captions.json"}
    rows = by_step(changed("coco-vitl", **own), A100)
    for step in ("index", "nouns", "propose", "score", "select", "shards", "finetune", "prompt"):
        assert math.isnan(rows[step].amount) and math.isnan(rows[step].seconds), step
    own |= {key: str(coco.images if "images" in key else coco.captions) for key in own}
    rows = by_step(changed("coco-vitl", **own), A100)
    assert rows["index"].amount == 6 and not math.isnan(rows["shards"].disk)


def test_a_part_that_takes_an_account_has_no_known_download() -> None:
    rows = by_step(changed("coco-vitl"), A100)
    assert math.isnan(rows["ade20k ade847"].download) and rows["coco train2017"].download > 10**10
    assert not [row for row in plan_pipeline(changed("demo"), CPU) if row.download]


def test_embeddings_of_regions_take_four_bytes_a_component_and_32_for_each_crop_of_every_model() -> None:
    """Those of calibrate at each threshold, and those of all benchmarks."""
    for recipe, width in (("coco-vitl", 768), ("coco-vitb", 512)):
        params = changed(recipe, calibrate__limit=500)
        images = [
            500 * len(params.calibrate.thresholds),
            *(published(name)["images"] for name in params.evaluate.benchmarks),
        ]
        crops = sum(images) * params.proposal_network.num_queries * len(params.evaluate.models)
        row = by_step(params, A100)["OVSEG_WORK/regions"]
        assert (row.amount, row.disk, row.seconds) == (crops, crops * (4 * width + 32), 0)


def test_predictions_take_four_bytes_a_cell_of_each_mask_up_to_4_mib() -> None:
    """Of a photograph of 4:3, on a grid of a quarter of its size in multiples of 32 pixels; and the embeddings of its queries.

    If even a square image has more, no prediction is kept.
    """
    changes = {"calibrate__limit": 500, "proposal_network__num_queries": 100, "proposal_network__long_side": 640}
    images = 500 + sum(published(name)["images"] for name in changed("coco-vitl").evaluate.benchmarks)
    embeddings = 4 * 101 * 768
    for short_side, masks in ((160, 4 * 100 * 40 * 56), (384, 2**22), (480, None), (512, None)):
        row = by_step(changed("coco-vitl", **changes, proposal_network__short_side=short_side), A100)[
            "OVSEG_WORK/predictions"
        ]
        assert row.disk == (images * (masks + embeddings) if masks else 0)
        assert row.amount == (images if masks else 0)


def test_the_files_of_an_evaluated_image_have_the_planned_bytes(toys: Toys, tmp_path: Path) -> None:
    """But for the names and shapes of their tensors."""
    network, clip = load_network(toys.network), load_adapted(toys.clip)
    changes = {
        "evaluate__benchmarks": ["one"],
        "report__benchmark": "one",
        "evaluate__models": ["base"],
        "calibrate__limit": 1,
    }
    changes |= {"clip__model": f"local-dir:{toys.clip}", "data__clip": str(toys.clip), "calibrate__thresholds": [0.4]}
    changes |= {f"proposal_network__{side}": network.metadata[side] for side in ("short_side", "long_side")}
    params = changed("demo", **changes, proposal_network__num_queries=QUERIES)
    for folder in (params.calibrate.benchmark, params.evaluate.folder / "one"):
        folder.mkdir(parents=True)
        (folder / "items.tsv").write_text("image\tlabel\na\tb\n", encoding="utf-8")
    predict(tmp_path / "work", network, noise(0, 90, 120), "prediction")
    regions = EmbeddingFile(tmp_path / "work" / "regions.safetensors", tuple(bytes([i]) * 32 for i in range(QUERIES)))
    write_embeddings(regions, torch.rand(QUERIES, clip.width))
    rows, images = by_step(params, CPU), 2
    for name, file in (("predictions", "prediction.safetensors"), ("regions", "regions.safetensors")):
        of_image = rows[f"OVSEG_WORK/{name}"].disk / images
        assert of_image < (tmp_path / "work" / file).stat().st_size < of_image + 500, name


def test_the_cells_that_pseudo_texts_attend_to_are_kept_with_each_set_of_masks() -> None:
    """14 x 14 cells for the finetuned CLIP and its copy, at three thresholds of the held-out images; at one of the others and
    for the masks of their ground truth.
    """
    pooled = {"finetune__method": "maskclippp", "finetune__region_encoder": "pooled", "finetune__image_size": 448}
    linear, pseudo = (
        by_step(changed("coco-vitl", **pooled, finetune__psm=psm, prompt__epochs=0), A100)["OVSEG_WORK/regions"]
        for psm in ("linear", "pseudo_text")
    )
    params = changed("coco-vitl")
    assert params.evaluate.models == ["base", "finetune", "prompt"] and len(params.calibrate.thresholds) == 3
    heldout, *others = (by_step(params, A100)[step].amount for step in steps_of_benchmarks(params))
    masks = 3 * params.proposal_network.num_queries
    assert pseudo.amount - linear.amount == pytest.approx((heldout + 2 * sum(others)) / masks * 2 * 14 * 14)
    assert pseudo.unit == "masks and cells at most" and pseudo.disk > linear.disk


def steps_of_benchmarks(params: Params) -> list[str]:
    return ["embed_heldout", *(f"embed@{name}" for name in params.evaluate.benchmarks)]


def test_an_evaluation_takes_the_networks_time_again_only_if_its_masks_are_too_large_to_be_kept() -> None:
    large, small = (by_step(changed("coco-vitl", proposal_network__short_side=side), A100) for side in (640, 384))
    for step in ("calibrate", "evaluate@ade150"):
        assert large[step].seconds == pytest.approx(large[step].amount / 5) and small[step].seconds == 0
        assert large[step].unit == "images"


def test_a_row_of_embeddings_has_about_the_planned_bytes(tmp_path: Path) -> None:
    """Masks of 300 bytes, which three CLIPs share, and vectors of noise, which nothing compresses."""
    params, width, models = changed("coco-vitb"), 512, ("base", "finetune", "prompt")
    row = by_step(params, A100)["embed@ade150"]
    rng = np.random.default_rng(0)
    masks = [rng.bytes(300) for _ in range(400)]
    rows = [(model, mask) for mask in masks for model in models]
    regions = [hashlib.sha256(mask).digest() for _, mask in rows]
    vectors = rng.standard_normal((len(rows), width)).astype(np.float16)
    columns = [0] * len(rows), [model for model, _ in rows], ["0" * 64] * len(rows), regions, [mask for _, mask in rows]
    region_table.write(tmp_path, "00000", region_table.Rows(*columns, vectors), "fingerprint", {}, {})
    planned, written = row.disk / row.amount, (tmp_path / "00000.parquet").stat().st_size / len(rows)
    assert 2 * width < written and written == pytest.approx(planned, rel=0.05)


def test_what_is_copied_from_modules_with_torch_is_as_there() -> None:
    copied = (plan.LARGEST, plan.SIZE_DIVISOR, plan.STRIDE, plan.CONVNEXT_STRIDE, plan.REGION_NAME)
    assert copied == (
        prediction_store.LARGEST,
        SIZE_DIVISOR,
        STRIDE,
        pooled_regions.STRIDE,
        len(embedding_file(Path(), "", [b"a"]).regions[0]),
    )


def test_what_lies_in_the_scratch_folder_is_said() -> None:
    rows = plan_pipeline(changed("coco-vitl"), A100)
    assert "OVSEG_WORK is counted as if it were on this disk" in format_plan(rows, A100, PLENTY)
    assert "OVSEG_WORK" not in format_plan(rows[:5], A100, PLENTY)


def test_a_training_of_a_region_encoder_takes_images_and_no_measured_time() -> None:
    """At most all images in each epoch, and those of `max_steps` batches; nobody has measured its rate."""
    for method in ("regions", "maft", "maskclippp", "distil", "mask_adapter"):
        one = by_step(changed("coco-vitl", finetune__method=method, finetune__epochs=2), A100)["finetune"]
        assert (one.amount, one.unit) == (2 * 118_287, "images at most") and math.isnan(one.seconds)
        few = by_step(changed("coco-vitl", finetune__method=method, finetune__max_steps=3), A100)["finetune"]
        assert few.amount == 3 * changed("coco-vitl").finetune.batch_size


def test_encoders_of_one_pass_take_images_at_their_own_rate() -> None:
    """Longer in proportion to the pixels beyond the measured ones; models that see crops take the rate of crops."""
    h100 = Machine(2, "h100")
    (rate,) = [
        row["per_second"]
        for row in facts()["rates"]
        if (row["work"], row.get("model"), row["device"]) == ("encode regions", "ViT-L-14", "h100")
    ]
    for side, factor in ((None, 1), (448, 1), (896, 4)):
        score = by_step(changed("coco-vitl", score__encoder="region_tokens", score__image_size=side), h100)["score"]
        assert score.seconds == pytest.approx(factor * 118_287 / rate)
    region = {"finetune__method": "regions", "finetune__image_size": 448, "prompt__epochs": 0}
    known = Machine(2, "h100, or a100 for the proposal network")
    alone, both, crops = (
        by_step(changed("coco-vitl", evaluate__models=models, **region), known)["embed@ade150"]
        for models in (["prompt"], ["base", "prompt"], ["base"])
    )
    network = 2_000 / 5
    assert alone.seconds == pytest.approx(network + 2 * 2_000 / rate)  # proposals, then the masks of the ground truth
    assert both.seconds == pytest.approx(alone.seconds + crops.seconds - network)
    pooled = by_step(changed("coco-vitl", score__encoder="pooled"), h100)["score"]
    assert math.isnan(pooled.seconds)


def test_a_model_takes_the_rates_and_sizes_of_its_own_name() -> None:
    """ViT-L-14-336 sees more pixels than ViT-L-14, ViT-B-16-SigLIP has wider embeddings; the activation does not count."""
    paper, plain, larger, wider = (
        by_step(changed("coco-vitl", clip__model=name), A100)
        for name in ("ViT-L-14-quickgelu", "ViT-L-14", "ViT-L-14-336", "ViT-B-16-SigLIP")
    )
    assert paper["score"] == plain["score"] and paper["finetune"] == plain["finetune"]
    assert math.isnan(larger["score"].seconds) and larger["score"].disk == paper["score"].disk
    assert math.isnan(wider["score"].seconds) and math.isnan(wider["score"].disk) and math.isnan(wider["base"].disk)


def test_a_disk_that_is_too_small_is_reported() -> None:
    rows = plan_pipeline(changed("coco-vitl"), A100)
    assert "NOT ENOUGH" in format_plan(rows, A100, 10**9) and "NOT ENOUGH" not in format_plan(rows, A100, PLENTY)


def test_a_benchmark_that_is_there_is_counted(tmp_path: Path) -> None:
    folder = tmp_path / changed("demo").evaluate.folder / "all"
    folder.mkdir(parents=True)
    (folder / "items.tsv").write_text("image\tlabel\n" + "a\tb\n" * 135, encoding="utf-8")
    queries, models = (changed("demo").proposal_network.num_queries, changed("demo").evaluate.models)
    assert by_step(changed("demo"), CPU)["embed@all"].amount == 135 * queries * len(models)


def test_every_rate_has_its_source_and_the_files_it_names_exist() -> None:
    for row in facts()["rates"]:
        assert row["source"].startswith(("measured:", "stated:", "estimate:")) and row["per_second"] > 0, row
        for name in re.findall(r"benchmarks/\S+\.json", row["source"]):
            assert (ROOT / name).is_file(), name


def test_benchmarks_are_converted_from_the_parts_that_the_dag_names() -> None:
    assert set(PARTS) == set(BENCHMARKS)
    for name, (dataset, parts) in PARTS.items():
        stages = yaml.safe_load((ROOT / "data" / dataset / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
        assert name in stages["convert"]["matrix"]["benchmark"]
        deps = [dep.replace("${item.benchmark}", name) for dep in stages["convert"]["deps"] if "/manifests/" in dep]
        assert deps == [f"data/{dataset}/manifests/{part}.tsv" for part in parts]
