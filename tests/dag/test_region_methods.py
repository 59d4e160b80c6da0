"""MAFT and MaskCLIP++ on mined and on annotated pairs, by `dvc exp run -S` from the finished run."""

from __future__ import annotations

import json
import shutil
import sys
from typing import Any

import pytest

from ovseg.core.images import decode_image, decode_labels
from tests.copy import Copy, stages_ran

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("pairs", ["mined", "annotated"])
@pytest.mark.parametrize("method", ["maft", "maskclippp"])
def test_a_region_encoder_is_trained_measured_and_reported_without_mining_again(
    repo: Copy, default: dict[str, Any], method: str, pairs: str
) -> None:
    """By `dvc exp run` after the default run; `ovseg segment` then takes what was trained. One benchmark is enough."""
    settings = [f"finetune.method={method}", f"finetune.pairs={pairs}", "finetune.max_steps=1", "prompt.epochs=0"]
    settings += ["evaluate.models=[finetune]", "evaluate.benchmarks=[all]", "calibrate.limit=2"]
    ran = stages_ran(repo.experiment(*settings))
    metrics = repo.metrics()
    assert ran[0] == "finetune" and ran[-1] == "report"
    evaluated = {"embed_heldout", "calibrate", "embed@all", "evaluate@all"}
    assert {*ran[1:-1]} == {"prompt", "measure@finetune", "measure@prompt", *evaluated}

    provenance = json.loads((repo.folder / "models" / "finetune" / "provenance.json").read_text())
    recipe = provenance["steps"][0]["recipe"]
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
