"""Evaluating one benchmark and reporting it: metrics.json, and classes.tsv with the IoU of each class."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ovseg.core import tables
from ovseg.core.errors import OvsegError
from ovseg.core.files import write_tsv
from ovseg.core.options import CropOptions, SegmentOptions
from ovseg.datasets.benchmark import Benchmark, read_benchmark
from ovseg.engine.runtime import Runtime
from ovseg.evaluation.benchmark_metrics import MetricsByClassifier, benchmark_metrics, class_ious, gt_areas
from ovseg.evaluation.calibrate import Choice, label_same_images, read_choice
from ovseg.evaluation.evaluate import evaluate
from ovseg.evaluation.settings import three_classifiers

ORDER = ("clip", "proposals", "ensemble", "oracle_labels")
DROPPED = "dropped."


def evaluate_benchmark(
    benchmark: Path,
    network: Path,
    clips: Mapping[str, Path],
    calibration: Path,
    out: Path,
    report: Path,
    runtime: Runtime,
    *,
    options: SegmentOptions,
    crop: CropOptions,
    mask_threshold: float | None,
    weight: float | None,
    limit: int | None,
    missing: Literal["error", "allow"],
    embeddings: Path | None = None,
) -> None:
    """Evaluate CLIP alone, the proposal network alone, their ensemble and the oracles on one benchmark, and report it.

    Args:
        benchmark: the folder of the benchmark.
        network: the folder of the proposal network.
        clips: the folders of the CLIPs by name, the result last.
        calibration: the folder that `calibrate` wrote.
        out: the folder of the table `segmentations`.
        report: the folder of the report, see `write_benchmark_report`.
        runtime: devices, workers, batch size, scratch folder.
        options: how images are segmented.
        crop: the crop recipe.
        mask_threshold, weight: values for all models; None for those that `calibrate` chose for each.
        limit: the number of images, from the first on; None for all.
        missing: whether images or labels that cannot be read are an error (raised after the report is written) or are left out.
        embeddings: the embeddings of the benchmark's masks, see `evaluate`.

    Raises:
        OvsegError: as `evaluate`, `read_choice` and `write_benchmark_report`; or images are missing.
    """
    choices = {model: read_choice(calibration, model, mask_threshold, weight) for model in clips}
    settings = [
        setting
        for model, choice in choices.items()
        for setting in three_classifiers(model, choice.mask_threshold, choice.weight)
    ]
    counts = evaluate(
        benchmark,
        network,
        clips,
        out,
        runtime,
        settings,
        options=options,
        crop=crop,
        limit=limit,
        embeddings=embeddings,
    )
    opened = read_benchmark(benchmark)
    labeled = {model: label_same_images(choice, opened) for model, choice in choices.items()}
    write_benchmark_report(out, opened, report, labeled)
    dropped = [f"{n} {name.removeprefix(DROPPED)}" for name, n in counts.items() if name.startswith(DROPPED)]
    if dropped and missing == "error":
        raise OvsegError(
            f"{benchmark}: {', '.join(dropped)}; the images are listed in {out / 'failures'}. Repair them, or set "
            "evaluate.missing=allow to evaluate the others"
        )


def write_benchmark_report(table: Path, benchmark: Benchmark, out: Path, choices: Mapping[str, Choice]) -> None:
    """Write the report of one benchmark to `out`.

        metrics.json   {"images", "classes", "dropped", "models": {model: {classifier: metrics, "mask_accuracy": value, ...,
                       "choice": mask threshold, weight and their source}}}
        classes.tsv    class, seen, gt_pixels, and the IoU by each model and classifier, which is empty for a class without
                       ground truth and prediction

    Args:
        table: the folder of the table `segmentations`.
        benchmark: the benchmark that was segmented.
        out: the folder to write to; it is created if it does not exist.
        choices: the mask threshold and the weight of each model, the model of the result last.

    Raises:
        OvsegError: no image could be read, or no pixel is scored.
    """
    counts = tables.read_counts(table)
    if not counts.get("images"):
        raise OvsegError(f"no image of {benchmark.folder} can be read; the reasons are in {table / 'failures'}")
    out.mkdir(parents=True, exist_ok=True)
    by_model = benchmark_metrics(table, benchmark)
    if "miou" not in by_model[next(iter(choices))]["ensemble"]:
        raise OvsegError(
            f"no pixel of {benchmark.folder} is scored: all of its labels are {benchmark.ignore}, which is ignored"
        )
    report = {
        "images": counts["images"],
        "classes": len(benchmark.names),
        "dropped": {name.removeprefix(DROPPED): n for name, n in counts.items() if name.startswith(DROPPED)},
        "models": {model: {**_ordered(by_model[model]), "choice": asdict(choice)} for model, choice in choices.items()},
    }
    (out / "metrics.json").write_text(json.dumps(_rounded(report), indent=1) + "\n", encoding="utf-8")
    _write_classes(table, benchmark, out / "classes.tsv")


def _ordered(metrics: MetricsByClassifier) -> dict[str, Any]:
    """The classifiers in a fixed order, with the mask accuracies beside "oracle_masks" instead of inside it."""
    oracle = metrics["oracle_masks"]
    accuracies = {name: value for name, value in oracle.items() if name.startswith("mask_accuracy")}
    oracle_masks = {name: value for name, value in oracle.items() if name not in accuracies}
    return {**{name: metrics[name] for name in ORDER}, "oracle_masks": oracle_masks, **accuracies}


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list) else value


def _write_classes(table: Path, benchmark: Benchmark, path: Path) -> None:
    by_classifier = class_ious(table, benchmark)
    areas = gt_areas(table, benchmark)
    columns = ("/".join(filter(None, model_and_classifier)) for model_and_classifier in by_classifier)
    rows = []
    for k, name in enumerate(benchmark.shown_names):
        seen = "" if benchmark.seen is None else "yes" if benchmark.seen[k] else "no"
        ious = ["" if np.isnan(iou[k]) else f"{iou[k]:.4f}" for iou in by_classifier.values()]
        rows.append([name, seen, int(areas[k]), *ious])
    write_tsv(path, ("class", "seen", "gt_pixels", *columns), rows)
