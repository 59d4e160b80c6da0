"""The report of a whole run of toys: every file is written, from this run alone, and the metrics are those of the stages."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ovseg.core.errors import OvsegError
from ovseg.core.options import CropOptions, ReportOptions, SegmentOptions
from ovseg.datasets.benchmark import read_benchmark
from ovseg.engine.runtime import Runtime
from ovseg.evaluation.benchmark_report import evaluate_benchmark
from ovseg.evaluation.calibrate import Choice
from ovseg.evaluation.confusion import confusion
from ovseg.evaluation.embed import embed
from ovseg.report.failures import ensemble_rows
from ovseg.report.overlays import segment_items
from ovseg.report.run_metrics import MEASURED
from ovseg.report.run_report import RunFolders, write_report
from tests.conftest import Toys
from tests.evaluation.conftest import Passes, draw_benchmark
from tests.report.conftest import MadeRun
from tests.report.test_quality import CATEGORIES, segment, write_annotations

MODELS = ("base", "prompt")
MAX_BYTES = 300_000  # of the page of a run with four sheets
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
    clips = {model: folders.models / model for model in MODELS}
    regions = folders.data / "regions" / "benchmarks" / benchmark.name
    embed(
        benchmark,
        folders.network,
        clips,
        regions,
        runtime,
        {model: [0.5] for model in MODELS},
        options=SEGMENT,
        crop=CropOptions(),
    )
    evaluate_benchmark(
        benchmark,
        folders.network,
        clips,
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
        embeddings=regions,
    )
    for name in MEASURED:
        (folders.reports / "measure" / name).mkdir(parents=True)
        (folders.reports / "measure" / name / "metrics.json").write_text(json.dumps(MEASUREMENTS))
    return folders


def report(folders: RunFolders, made: MadeRun, runtime: Runtime) -> str:
    """Write the report of the run, and return its text."""
    root = folders.reports.parent
    annotations = write_annotations(root / "annotations.json", [segment(3, 1, 5, 5, 20, 20)], CATEGORIES)
    (root / "captions.json").write_text("{}")
    return write_report(
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
    assert len(page) < MAX_BYTES


def test_label_maps_of_one_name_in_two_folders_have_a_sheet_each(
    folders: RunFolders, made: MadeRun, runtime: Runtime
) -> None:
    benchmark = read_benchmark(folders.reports.parent / "benchmarks" / "set")
    rows = ["image\tlabel"]
    for number, (image, label) in enumerate(benchmark.items):
        moved = benchmark.folder / "labels" / str(number) / "same.png"
        moved.parent.mkdir()
        (benchmark.folder / "labels" / label).rename(moved)
        rows.append(f"{image}\t{number}/same.png")
    (benchmark.folder / "items.tsv").write_text("\n".join(rows) + "\n")
    report(folders, made, runtime)
    assert {path.name for path in (folders.reports / "overlays").iterdir()} == {"0_same.png", "1_same.png"}


def test_the_worst_images_and_classes_are_those_of_the_benchmark(
    folders: RunFolders, made: MadeRun, runtime: Runtime
) -> None:
    report(folders, made, runtime)
    benchmark = read_benchmark(folders.reports.parent / "benchmarks" / "set")
    page = (folders.reports / "index.html").read_text(encoding="utf-8")
    worst = page[page.index('id="worst-images"') :]
    names = re.findall('data-name="([^"]+)"', worst)
    assert sorted(names) == sorted(Path(label).stem for _, label in benchmark.items)
    mious = [float(value) for value in re.findall(r"<figcaption>prompt, (\d+)%", worst)]
    assert mious == sorted(mious) and len(mious) == 2
    assert worst.count("<figcaption>ground truth") == worst.count("<figcaption>base, ") == 2
    assert [caption for caption in re.findall("<p>prompt: ([^<]*)", worst) if " predicted as " in caption]
    tables = (folders.reports / "tables.md").read_text(encoding="utf-8")
    section = tables.split("## Worst classes of benchmark set")[1].split("##")[0]
    shown = [row.split(" | ")[0].removeprefix("| ") for row in section.splitlines() if row.startswith("| ")][2:]
    with (folders.reports / "evaluate" / "set" / "classes.tsv").open(encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream, delimiter="\t") if row["gt_pixels"] != "0"]
    lowest = min(rows, key=lambda row: (float(row["prompt/ensemble"]), -int(row["gt_pixels"])))
    assert shown[0] == lowest["class"] and set(shown) == {row["class"] for row in rows}


def test_the_label_maps_that_are_shown_are_those_that_were_evaluated_without_running_clip_again(
    folders: RunFolders, made: MadeRun, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = read_benchmark(folders.reports.parent / "benchmarks" / "set")
    clips = {model: folders.models / model for model in MODELS}
    choices = dict.fromkeys(MODELS, Choice(0.5, 0.7, "given"))
    regions = folders.data / "regions" / "benchmarks" / "set"
    elsewhere = replace(runtime, work=folders.reports.parent / "nothing kept")
    passes = Passes(monkeypatch)
    for item, _, labels in segment_items(
        folders.network, clips, benchmark, [0, 1], choices, elsewhere, SEGMENT, CropOptions(), regions
    ):
        for model in MODELS:
            index, pixels = confusion(labels["ground truth"], labels[model], len(benchmark.names), benchmark.ignore)
            row = ensemble_rows(folders.data / "evaluate" / "set", model).to_pylist()[item]
            assert (row["confusion_index"], row["pixels"]) == (index.tolist(), pixels.tolist())
    assert passes.images and not passes.crops
    other = segment_items(
        folders.network, clips, benchmark, [0], choices, runtime, SEGMENT, CropOptions(fill="zero"), regions
    )
    with pytest.raises(OvsegError, match="crop="):
        next(other)


def test_the_text_at_the_end_has_each_model_and_the_pages(folders: RunFolders, made: MadeRun, runtime: Runtime) -> None:
    lines = report(folders, made, runtime).splitlines()
    assert lines[0] == "6 mined pairs, 100.0% of them correct"
    assert lines[2].split() == ["mIoU", *MODELS] and lines[3].split()[0] == "set"
    assert str(folders.reports / "index.html") in lines[-2]


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
