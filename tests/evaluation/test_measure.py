"""Measuring a trained model: the files of a measurement, and that it is done again only when its result can change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ovseg.clip.adapted import load_adapted, save_adapted
from ovseg.clip.load import Clip
from ovseg.clip.prompts import new_prompts
from ovseg.clip.save import model_config
from ovseg.core.errors import OvsegError
from ovseg.engine.runtime import Runtime
from ovseg.evaluation import measure as module
from ovseg.evaluation.mask_accuracy import measure_mask_accuracy
from ovseg.evaluation.measure import measure_clip, measure_proposal_network
from ovseg.evaluation.proposal_recall import measure_recall
from ovseg.proposals.proposal_network import proposal_network_source
from tests.conftest import Coco, Toys, write_coco
from tests.toys import QUERIES

CROP: dict[str, Any] = {"fill": "mean", "antialias": True, "templates": "single"}
CURVES = "step\tloss\tlearning_rate\n1\t2\t3\n"


def of_clip(model: Path, coco: Coco, tmp_path: Path, name: str = "out", **changes: Any) -> Path:
    runtime = Runtime(work=tmp_path / "work")
    options = {**CROP, "limit": None, **changes}
    measure_clip(model, coco.images, coco.instances, tmp_path / name, runtime, **options)
    return tmp_path / name


def of_network(toys: Toys, coco: Coco, tmp_path: Path) -> Path:
    model = Path(shutil.copytree(toys.network, tmp_path / "model"))
    (model / "training.tsv").write_text(CURVES)
    options = {"mask_threshold": 0.5, "max_proposals": 4, "limit": 2}
    runtime = Runtime(work=tmp_path / "work")
    measure_proposal_network(model, coco.images, coco.instances, tmp_path / "out", runtime, **options)  # type: ignore[arg-type]
    return tmp_path / "out"


def metrics(folder: Path) -> Any:
    return json.loads((folder / "metrics.json").read_text())


def first_column(path: Path) -> list[str]:
    return [line.split("\t")[0] for line in path.read_text().splitlines()]


def test_of_a_clip_without_prompts_there_is_its_mask_accuracy_alone(
    coco: Coco, tiny_clip: Path, tmp_path: Path
) -> None:
    out = of_clip(tiny_clip, coco, tmp_path)
    clips = {"model": load_adapted(tiny_clip)}
    assert metrics(out) == measure_mask_accuracy(clips, coco.images, coco.instances, batch_size=64, **CROP)
    header, row = (out / "mask_accuracy.tsv").read_text().splitlines()
    assert header.split("\t") == ["clip", "nouns", "mask_accuracy", "union_accuracy"]
    figures = [f"{metrics(out)['model'][figure]:.4f}" for figure in ("mask_accuracy", "union_accuracy")]
    assert row.split("\t") == [f"{tiny_clip.name}, all", "all", *figures]
    assert {path.name for path in out.iterdir()} == {"metrics.json", "mask_accuracy.tsv", "step.json"}


def test_of_a_clip_with_prompts_there_is_the_accuracy_without_them_too(
    coco: Coco, tiny_clip: Path, tmp_path: Path
) -> None:
    plain = load_adapted(tiny_clip)
    prompts = new_prompts(plain.model.visual, 1, 0) * 100  # type: ignore[arg-type]
    save_adapted(plain.model, model_config(f"local-dir:{tiny_clip}"), prompts, {}, tmp_path / "mpt")
    (tmp_path / "mpt" / "training.tsv").write_text(CURVES)
    out = of_clip(tmp_path / "mpt", coco, tmp_path)
    plain_scores = metrics(of_clip(tiny_clip, coco, tmp_path, "plain"))["model"]
    assert metrics(out).keys() == {"model", "model_without_prompts"}
    assert metrics(out)["model_without_prompts"] == plain_scores
    assert first_column(out / "mask_accuracy.tsv") == ["clip", "mpt, all", "mpt without prompts, all"]
    assert (out / "training.tsv").read_text() == CURVES


def test_with_other_templates_no_region_is_encoded_again_and_the_result_is_that_of_encoding_all(
    coco: Coco, tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = load_adapted(tiny_clip)
    prompts = new_prompts(plain.model.visual, 1, 0) * 100  # type: ignore[arg-type]
    save_adapted(plain.model, model_config(f"local-dir:{tiny_clip}"), prompts, {}, tmp_path / "mpt")
    computed = metrics(of_clip(tmp_path / "mpt", coco, tmp_path, "computed", templates="vild"))
    with monkeypatch.context() as patched:
        patched.setattr(Clip, "encode_crops", None)
        assert metrics(of_clip(tmp_path / "mpt", coco, tmp_path, "again", templates="none")) != computed
        shutil.rmtree(tmp_path / "computed")
        other = Runtime(work=tmp_path / "work", fresh=True)
        options = {**CROP, "limit": None, "templates": "vild"}
        measure_clip(tmp_path / "mpt", coco.images, coco.instances, tmp_path / "computed", other, **options)
        assert metrics(tmp_path / "computed") == computed
    clips = {name: load_adapted(tmp_path / "mpt", prompts="without" not in name) for name in computed}
    options = {**CROP, "templates": "vild"}
    assert measure_mask_accuracy(clips, coco.images, coco.instances, batch_size=64, **options) == computed


def test_of_a_proposal_network_there_is_recall_and_its_curves(toys: Toys, coco: Coco, tmp_path: Path) -> None:
    out = of_network(toys, coco, tmp_path)
    source = proposal_network_source(toys.network, 0.5, 4, "cpu")
    assert metrics(out) == measure_recall(source, coco.images, coco.instances, 2)
    assert (
        metrics(out)["proposals"] == 2 * min(4, QUERIES) and 0 <= metrics(out)["ar"] <= metrics(out)["recall_50"] <= 1
    )
    rows = ["masks", "all, mean of IoU 0.5 to 0.95", "all, IoU 0.5", "all, IoU 0.75"]
    assert first_column(out / "recall.tsv") == rows
    assert (out / "training.tsv").read_text() == CURVES


def test_an_unchanged_measurement_is_not_done_again_even_where_its_folder_was_removed(
    coco: Coco, tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC removes the outputs of a stage before it runs."""
    scores = metrics(of_clip(tiny_clip, coco, tmp_path))
    monkeypatch.setattr(module, "measure_mask_accuracy", None)
    of_clip(tiny_clip, coco, tmp_path)
    shutil.rmtree(tmp_path / "out")
    assert metrics(of_clip(tiny_clip, coco, tmp_path)) == scores


@pytest.mark.parametrize("changes", [{"limit": 2}, {"fill": "keep"}, {"templates": "vild"}])
def test_other_parameters_are_measured_anew(
    coco: Coco, tiny_clip: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    before = json.loads((of_clip(tiny_clip, coco, tmp_path) / "step.json").read_text())
    shutil.rmtree(tmp_path / "out")
    after = json.loads((of_clip(tiny_clip, coco, tmp_path, **changes) / "step.json").read_text())
    assert before["fingerprint"] != after["fingerprint"]


def test_a_lower_limit_of_what_may_be_dropped_refuses_a_published_measurement(tiny_clip: Path, tmp_path: Path) -> None:
    coco = write_coco(tmp_path / "coco", 4)
    (coco.images / json.loads(coco.instances.read_text())["images"][0]["file_name"]).unlink()
    of_clip(tiny_clip, coco, tmp_path)
    strict = Runtime(work=tmp_path / "work", max_dropped=0.0)
    for published in (True, False):
        if not published:
            shutil.rmtree(tmp_path / "out")
        with pytest.raises(OvsegError, match=r"1 of \d+ images .* image_missing"):
            measure_clip(tiny_clip, coco.images, coco.instances, tmp_path / "out", strict, **CROP, limit=None)
