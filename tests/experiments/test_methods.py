"""The leaderboard: its rows are allowed, its figures are counted right, and the document is made from the stored ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.method_costs import settings_of, untrained_clip
from experiments.method_rows import METHODS, SIMBASELINE, Method
from experiments.method_runs import train_and_measure, trained_clip, trained_parameters
from experiments.methods import DOCUMENT, NAME, RESULTS, slug
from experiments.methods_table import region_table, segmentation_table, tables_of
from experiments.tables import read_figures, replace_table
from ovseg.clip.region_settings import CROPS, RegionSettings
from ovseg.core.options import FinetuneOptions, PromptOptions, SegmentOptions
from ovseg.core.params import read_params
from ovseg.core.tensor_files import write_tensors
from ovseg.engine.runtime import Runtime
from tests.structure.imports import ROOT

RUN = {
    "mask_accuracy": {"all": 0.5, "annotated": 0.6, "not annotated": 0.4},
    "benchmarks": {
        name: {"miou": 0.2, "miou_seen": 0.3, "miou_unseen": 0.1, "clip_miou": 0.15}
        for name in ("annotated", "mixed", "novel", "all", "fine")
    },
    "choice": {"weight": 0.5},
    "trained_parameters": 1234,
    "steps": 60,
    "seconds": 7,
}


@pytest.mark.parametrize("row", METHODS)
def test_the_parameters_of_a_row_are_allowed(row: str) -> None:
    method, params = METHODS[row], read_params(ROOT / "recipes" / "demo.yaml")
    for options, section, changes in (
        (FinetuneOptions, params.finetune, method.finetune),
        (PromptOptions, params.prompt, method.prompt),
        (SegmentOptions, params.segment, method.segment),
    ):
        checked = options.model_validate(section.model_dump() | dict(changes or {})).model_dump()
        assert checked.items() >= dict(changes or {}).items()


def test_rows_have_folders_of_their_own() -> None:
    assert len({slug(row) for row in METHODS}) == len(METHODS)


def test_a_row_segments_with_the_last_model_that_it_trains(tmp_path: Path) -> None:
    names = {row: trained_clip(METHODS[row], tmp_path).name for row in ("ZegFormer", "OVSeg, FT", "OVSeg, FT then MPT")}
    assert names == {"ZegFormer": "base", "OVSeg, FT": "finetune", "OVSeg, FT then MPT": "prompt"}


def test_mask_accuracy_is_measured_with_the_crop_recipe_of_the_method(
    tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[dict[str, Any]] = []

    def measure_mask_accuracy(*_: object, **options: Any) -> dict[str, dict[str, float]]:
        measured.append(options)
        return {
            "model": dict.fromkeys(("mask_accuracy", "mask_accuracy_annotated", "mask_accuracy_not_annotated"), 0.5)
        }

    monkeypatch.setattr("experiments.method_runs.measure_mask_accuracy", measure_mask_accuracy)
    monkeypatch.setattr("experiments.method_runs.BASE", tiny_clip)
    params, runtime = read_params(ROOT / "recipes" / "demo.yaml"), Runtime(work=tmp_path)
    for antialias in (True, False):
        train_and_measure(params, Method(crop={"antialias": antialias}), 0, tmp_path, runtime, tmp_path)
    assert [options["antialias"] for options in measured] == [True, False]
    assert SIMBASELINE.crop == {"antialias": False}


def test_tables_have_the_mean_and_the_deviation_over_seeds() -> None:
    results = {"distilled": {"0": RUN, "1": RUN | {"choice": {"weight": 0.7}, "seconds": 9}}}
    same, split = "20.0 ± 0.0 | " * 5, "30.0 ± 0.0 | 10.0 ± 0.0 | "
    assert segmentation_table(results).splitlines()[2] == (
        f"| distilled | {same}{split}{split}15.0 ± 0.0 | 0.5 to 0.7 | 2 |"
    )
    accuracy = "60.0 ± 0.0 | 40.0 ± 0.0 | 50.0 ± 0.0"
    assert region_table(results).splitlines()[2] == f"| distilled | {accuracy} |  |  | 1,234 | 60 | 8 s |"


def test_the_costs_of_a_row_are_those_of_its_region_encoder_before_training(
    tiny_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Crops with or without new mask prompts, or one pass; weights that are learned are not needed."""
    monkeypatch.setattr("experiments.method_costs.BASE", tiny_clip)
    params = read_params(ROOT / "recipes" / "demo.yaml")
    rows = {row: settings_of(params, METHODS[row]) for row in METHODS}
    assert rows["SimBaseline"] == rows["ZegFormer"] == rows["OVSeg, FT"] == CROPS
    assert rows["MaskCLIP++, mined"] == RegionSettings("biased_tokens", 3, 128)
    assert rows["contrastive, mined, soft"] == RegionSettings("region_tokens", 3, 128, coverage="soft")
    prompted = untrained_clip(params, Method(prompt={"depth": 1}))
    assert prompted.prompts is not None and prompted.regions == CROPS
    one_layer = Method({"method": "regions", "start_block": 0, "image_size": 32})
    assert untrained_clip(params, one_layer).regions == RegionSettings("region_tokens", 0, 32)


def test_trained_parameters_are_those_that_differ_from_the_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of three weights have changed, and four prompts are new."""
    monkeypatch.setattr("experiments.method_runs.BASE", tmp_path / "base")
    for folder, values in (("base", [1.0, 2.0, 3.0]), ("clip", [1.0, 2.5, 3.5])):
        (tmp_path / folder).mkdir()
        write_tensors({"w": torch.tensor(values)}, tmp_path / folder / "open_clip_model.safetensors")
    write_tensors({"prompts": torch.zeros(2, 2)}, tmp_path / "clip" / "mask_prompts.safetensors")
    assert trained_parameters(tmp_path / "clip") == 6
    assert trained_parameters(tmp_path / "base") == 0


def test_the_document_in_the_repository_is_made_from_the_stored_figures() -> None:
    text, results = (ROOT / DOCUMENT).read_text(encoding="utf-8"), read_figures(ROOT / RESULTS, METHODS)
    assert replace_table(text, NAME, tables_of(results)) == text
