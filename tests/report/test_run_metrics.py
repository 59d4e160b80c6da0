"""The metrics of a run, collected and shortened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ovseg.core.errors import OvsegError
from ovseg.evaluation.benchmark_metrics import CLASSIFIERS
from ovseg.report.run_metrics import (
    MEASURED,
    headline,
    read_benchmark_metrics,
    read_measurements,
    summary,
    without_intervals,
)

METRICS = {"miou": 0.25, "miou_interval": [0.1, 0.3]}


def by_classifier(mask_accuracy: float) -> dict[str, Any]:
    choice = {"weight": 0.7, "mask_threshold": 0.4, "source": "given"}
    return {**dict.fromkeys(CLASSIFIERS, METRICS), "mask_accuracy": mask_accuracy, "choice": choice}


BENCHMARKS = {"voc": {"base": by_classifier(0.5), "prompt": by_classifier(0.75)}}
RUN = {
    "pairs": 1200,
    "pair_precision": 0.5,
    "measure": {
        "proposal_network": {"ar": 0.4, "recall_50": 0.8},
        "finetune": {"model": {"mask_accuracy": 0.6}},
        "prompt": {"model": {"mask_accuracy": 0.7}},
    },
    "benchmarks": BENCHMARKS,
}


def test_the_intervals_of_every_classifier_are_left_out() -> None:
    shortened = without_intervals(BENCHMARKS)["voc"]["base"]
    assert all(shortened[classifier] == {"miou": 0.25} for classifier in CLASSIFIERS)
    assert {name: value for name, value in shortened.items() if name not in CLASSIFIERS} == {
        "mask_accuracy": 0.5,
        "choice": BENCHMARKS["voc"]["base"]["choice"],
    }


def test_a_summary_has_one_miou_for_each_benchmark() -> None:
    assert summary(RUN, "prompt") == {
        "pairs": 1200,
        "pair_precision": 0.5,
        "proposal_ar": 0.4,
        "mask_accuracy_finetune": 0.6,
        "mask_accuracy_prompt": 0.7,
        "miou": {"voc": 0.25},
    }


def test_the_headline_has_every_model() -> None:
    values = headline(RUN, ["base", "prompt"], "voc")
    assert values["mIoU of base on benchmark voc"] == "25.0%" and values["mIoU of prompt on benchmark voc"] == "25.0%"
    assert len(values) == 5 and len(headline(RUN, ["prompt"], "voc")) == 4


def test_metrics_are_read_from_the_folders_of_their_stages(tmp_path: Path) -> None:
    for name in MEASURED:
        (tmp_path / "measure" / name).mkdir(parents=True)
        (tmp_path / "measure" / name / "metrics.json").write_text(json.dumps({"name": name}))
    (tmp_path / "evaluate" / "voc").mkdir(parents=True)
    (tmp_path / "evaluate" / "voc" / "metrics.json").write_text(json.dumps({"models": BENCHMARKS["voc"]}))
    assert read_measurements(tmp_path) == {name: {"name": name} for name in MEASURED}
    assert read_benchmark_metrics(tmp_path, ["voc"]) == BENCHMARKS


def test_the_error_about_missing_metrics_names_the_file_and_the_stage(tmp_path: Path) -> None:
    with pytest.raises(OvsegError, match=r"evaluate/voc/metrics\.json.*`evaluate`"):
        read_benchmark_metrics(tmp_path, ["voc"])
    with pytest.raises(OvsegError, match=r"measure/.*metrics\.json.*`measure`"):
        read_measurements(tmp_path)
