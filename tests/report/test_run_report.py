"""The report of a whole run of toys: every file is written, from this run alone, and the metrics are those of the stages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ovseg.core.errors import OvsegError
from ovseg.core.options import CropOptions, ReportOptions, SegmentOptions
from ovseg.engine.runtime import Runtime
from ovseg.evaluation.benchmark_report import evaluate_benchmark
from ovseg.report.run_metrics import MEASURED
from ovseg.report.run_report import RunFolders, write_report
from tests.conftest import Toys
from tests.evaluation.conftest import draw_benchmark
from tests.report.conftest import MadeRun
from tests.report.test_quality import CATEGORIES, segment, write_annotations

MODELS = ("base", "prompt")
SEGMENT = SegmentOptions(templates="single")
MEASUREMENTS = {"ar": 0.25, "recall_50": 0.5, "model": {"mask_accuracy": 0.75}}


@pytest.fixture
def folders(made: MadeRun, toys: Toys, tmp_path: Path, runtime: Runtime) -> RunFolders:
    """A run with pairs of the made-up tables, toy models, and one benchmark of two images."""
    run = made[0]
    folders = RunFolders(data=run, shards=run / "shards", models=tmp_path / "models", reports=tmp_path / "reports")
    shutil.copytree(toys.network, folders.network)
    for model in MODELS:
        shutil.copytree(toys.clip, folders.models / model)
    benchmark = draw_benchmark(tmp_path / "benchmarks", 2)
    evaluate_benchmark(
        benchmark,
        folders.network,
        {model: folders.models / model for model in MODELS},
        folders.reports / "calibrate",
        folders.data / "evaluate" / benchmark.name,
        folders.reports / "evaluate" / benchmark.name,
        runtime,
        options=SEGMENT,
        crop=CropOptions(),
        mask_threshold=0.5,
        weight=0.7,
        limit=None,
        missing="error",
    )
    for name in MEASURED:
        (folders.reports / "measure" / name).mkdir(parents=True)
        (folders.reports / "measure" / name / "metrics.json").write_text(json.dumps(MEASUREMENTS))
    return folders


def report(folders: RunFolders, made: MadeRun, runtime: Runtime) -> None:
    """Write the report of the run."""
    root = folders.reports.parent
    annotations = write_annotations(root / "annotations.json", [segment(3, 1, 5, 5, 20, 20)], CATEGORIES)
    (root / "captions.json").write_text("{}")
    write_report(
        folders,
        runtime,
        ReportOptions(annotations=annotations, pairs=3, benchmark="set", images=2),
        images=made[1],
        captions=root / "captions.json",
        captions_per_image=1,
        benchmark_folder=root / "benchmarks",
        benchmarks=["set"],
        models=MODELS,
        mask_threshold=0.5,
        weight=0.7,
        options=SEGMENT,
        crop=CropOptions(),
    )


def test_every_file_of_the_report_is_written(folders: RunFolders, made: MadeRun, runtime: Runtime) -> None:
    report(folders, made, runtime)
    names = {path.name for path in folders.reports.iterdir() if path.is_file()}
    assert names == {"metrics.json", "summary.json", "tables.md", "index.html", "pairs.html"}
    plots = {path.stem for path in (folders.reports / "plots").iterdir()}
    assert plots == {"nouns", "similarity", "area", "benchmarks", "classes", "overlap"}
    assert len(list((folders.reports / "overlays").glob("*.png"))) == 2
    page = (folders.reports / "index.html").read_text(encoding="utf-8")
    assert "http://" not in page and "https://" not in page and "pairs.html" in page


def test_the_metrics_are_those_of_the_stages(folders: RunFolders, made: MadeRun, runtime: Runtime) -> None:
    report(folders, made, runtime)
    metrics = json.loads((folders.reports / "metrics.json").read_text(encoding="utf-8"))
    evaluated = json.loads((folders.reports / "evaluate" / "set" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["pairs"] == metrics["samples"] == 6 and metrics["pair_precision"] == 1.0
    assert metrics["measure"] == dict.fromkeys(MEASURED, MEASUREMENTS)
    for model in MODELS:
        reported, stored = metrics["benchmarks"]["set"][model], evaluated["models"][model]
        assert reported.keys() == stored.keys() and reported["choice"] == stored["choice"]
        assert reported["ensemble"]["miou"] == stored["ensemble"]["miou"]
    assert metrics["zero_shot"]["benchmarks"]["set"]["classes"] == 6


def test_a_missing_measurement_is_an_error_that_names_its_stage(
    folders: RunFolders, made: MadeRun, runtime: Runtime
) -> None:
    shutil.rmtree(folders.reports / "measure")
    with pytest.raises(OvsegError, match="`measure`"):
        report(folders, made, runtime)
