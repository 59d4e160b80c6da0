"""The report of a whole run: metrics.json, summary.json, tables.md, plots, overlays, index.html and pairs.html."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ovseg.core.options import CaptionsPerImage, CropOptions, ReportOptions, SegmentOptions
from ovseg.datasets.benchmark import read_benchmark
from ovseg.engine.runtime import Runtime
from ovseg.evaluation.calibrate import read_choice
from ovseg.report.browser import write_browser
from ovseg.report.charts import run_charts
from ovseg.report.class_tables import worst_classes_section
from ovseg.report.counts import FOLDERS, collect_counts
from ovseg.report.failures import class_mistakes, ensemble_rows
from ovseg.report.galleries import make_galleries
from ovseg.report.metric_tables import benchmark_sections, write_tables
from ovseg.report.near_duplicates import (
    count_near_duplicates,
    near_duplicates_gallery,
    near_duplicates_section,
)
from ovseg.report.overlays import write_sheets
from ovseg.report.page import write_page
from ovseg.report.plots import write_benchmark_plot, write_class_plot, write_distributions
from ovseg.report.quality import noun_quality, pair_quality
from ovseg.report.run_metrics import (
    headline,
    read_benchmark_metrics,
    read_measurements,
    summary,
    without_intervals,
)
from ovseg.report.run_text import summarize_report
from ovseg.report.zero_shot import measure_zero_shot, zero_shot_section


@dataclass(frozen=True)
class RunFolders:
    """Where the results of a run are.

    Attributes:
        data: the tables of the mining steps and, in data/evaluate and data/regions/benchmarks, of the benchmarks.
        shards: the shards.
        models: the models.
        reports: the reports; the report of the run is written there.
    """

    data: Path = Path("data")
    shards: Path = Path("shards")
    models: Path = Path("models")
    reports: Path = Path("reports")

    @property
    def network(self) -> Path:
        """The proposal network."""
        return self.models / "proposal_network"

    def of_steps(self) -> dict[str, Path]:
        """The folder of each step of mining."""
        return {step: self.shards if step == "shards" else self.data / name for step, name in FOLDERS.items()}


def write_report(
    folders: RunFolders,
    runtime: Runtime,
    report: ReportOptions,
    *,
    images: Path,
    captions: Path,
    captions_per_image: CaptionsPerImage,
    benchmark_folder: Path,
    benchmarks: Sequence[str],
    models: Sequence[str],
    mask_threshold: float | None,
    weight: float | None,
    options: SegmentOptions,
    crop: CropOptions,
) -> str:
    """Write the report of a run to `folders.reports`.

    Args:
        folders: the results of the run.
        runtime: device, batch size, workers.
        report: what is shown.
        images, captions: the mined images and their captions.
        captions_per_image: the captions that were read of each image.
        benchmark_folder, benchmarks: the folder of the benchmarks, and their names.
        models: the names of the CLIPs that were evaluated: the first is compared with, the last is the result.
        mask_threshold, weight: values for all models; None for those that `calibrate` chose for each.
        options, crop: how images are segmented, and the crop recipe.

    Returns:
        a text for the terminal, see `run_text.summarize_report`.

    Raises:
        OvsegError: a result of the run is missing.
    """
    plots = folders.reports / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    write_browser(folders.data, images, folders.reports / "pairs.html", report.pairs)
    write_distributions(folders.data / "pairs", folders.data / "index", plots)

    first, last, shown = models[0], models[-1], report.benchmark
    with_intervals = read_benchmark_metrics(folders.reports, benchmarks)
    metrics = _mining_metrics(folders, captions, captions_per_image, report.annotations)
    metrics["measure"] = read_measurements(folders.reports)
    metrics["benchmarks"] = without_intervals(with_intervals)
    pairs, evaluated = folders.data / "pairs", folders.data / "evaluate"
    metrics["zero_shot"] = measure_zero_shot(
        pairs, folders.network, benchmark_folder, evaluated, benchmarks, last, plots
    )
    found = report.near_duplicates
    if found is not None:
        metrics["near_duplicates"] = count_near_duplicates(found, pairs)
    _write_json(folders.reports / "metrics.json", metrics)
    _write_json(folders.reports / "summary.json", summary(metrics, last))

    benchmark = read_benchmark(benchmark_folder / shown)
    rows = {model: ensemble_rows(evaluated / shown, model) for model in models}
    classes = write_class_plot(folders.reports / "evaluate" / shown, f"{first}/ensemble", f"{last}/ensemble", plots)
    overview, *details = benchmark_sections(with_intervals)
    worst = worst_classes_section(classes, shown, models, class_mistakes(rows[last], benchmark))
    first_sections = [overview, worst, zero_shot_section(metrics["zero_shot"])]
    if found is not None:
        first_sections.append(near_duplicates_section(metrics["near_duplicates"]))
    sections = [*first_sections, *details]
    write_tables(folders.reports / "tables.md", sections)
    write_benchmark_plot(with_intervals, plots)

    choices = {m: read_choice(folders.reports / "calibrate", m, mask_threshold, weight) for m in models}
    clips = {model: folders.models / model for model in models}
    galleries = [
        *make_galleries(
            rows,
            benchmark,
            report.images,
            folders.network,
            clips,
            choices,
            runtime,
            options=options,
            crop=crop,
            embeddings=folders.data / "regions" / "benchmarks" / report.benchmark,
        )
    ]
    if found is not None:
        galleries.append(near_duplicates_gallery(found, folders.data / "index", images, report.images))
    write_sheets(galleries[0].sheets, folders.reports / "overlays")
    page, charts = folders.reports / "index.html", run_charts(with_intervals, shown, classes)
    write_page(page, headline(metrics, models, shown), charts, galleries, sections, expanded=len(first_sections))
    return summarize_report(metrics, models, folders.reports)


def _mining_metrics(
    folders: RunFolders, captions: Path, captions_per_image: CaptionsPerImage, annotations: Path
) -> dict[str, Any]:
    """The counts of the mining steps, and the quality of nouns and pairs where the data says what is correct."""
    metrics: dict[str, Any] = collect_counts(folders.of_steps())
    metrics |= noun_quality(folders.data / "nouns", captions, captions_per_image, folders.data / "index")
    with TemporaryDirectory() as scratch:
        pairs, proposals = folders.data / "pairs", folders.data / "proposals"
        metrics |= pair_quality(pairs, proposals, annotations, Path(scratch))
    return metrics


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
