"""The metrics of a benchmark from its table `segmentations`: of each model and classifier, and of each class (K classes)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ovseg.core import tables
from ovseg.datasets.benchmark import Benchmark
from ovseg.evaluation.confusion import ClassTotals, IntArray, class_totals
from ovseg.evaluation.metrics import FloatArray, accuracies, bootstrap_intervals, ious, segmentation_metrics

CLASSIFIERS = ("clip", "proposals", "ensemble", "oracle_masks", "oracle_labels")
"""What may classify a pixel: CLIP, the proposal network, both; CLIP on ground-truth masks; the ground truth on proposals."""
MetricsByClassifier = dict[str, dict[str, Any]]


def benchmark_metrics(folder: Path, benchmark: Benchmark, repeats: int = 1000) -> dict[str, MetricsByClassifier]:
    """Compute the metrics of every model, where each was evaluated with one mask threshold.

    Args:
        folder: the folder of the table `segmentations`.
        benchmark: the benchmark that was segmented.
        repeats: the number of bootstrap samples of the intervals; 0 for no intervals.

    Returns:
        model -> classifier (see `CLASSIFIERS`) -> metrics, see `segmentation_metrics`, with "miou_interval" and
        "miou_gt_interval" (95%, over images). "oracle_masks" also has the mask accuracies, see `accuracies`. The results of a
        classifier that needs no CLIP are repeated for every model.
    """
    table = tables.read(folder, "segmentations")
    models = [name for name in pc.unique(table["model"]).to_pylist() if name]
    metrics: dict[str, MetricsByClassifier] = {model: {} for model in models}
    for (model, classifier), rows in _rows_by_classifier(table).items():
        values = _metrics_of_rows(rows, benchmark, repeats)
        for name in [model] if model else models:
            metrics[name][classifier] = values
    return metrics


def class_ious(folder: Path, benchmark: Benchmark) -> dict[tuple[str, str], FloatArray]:
    """Compute the IoU of each class.

    Args:
        folder: the folder of the table `segmentations`.
        benchmark: the benchmark that was segmented.

    Returns:
        `[K]` by model (an empty name for classifiers that need no CLIP) and classifier; NaN for a class without ground truth
        and prediction.
    """
    table = tables.read(folder, "segmentations")
    by_classifier = {}
    for key, rows in _rows_by_classifier(table).items():
        total = totals_of_rows(rows, benchmark).sum()
        by_classifier[key] = ious(total.intersection, total.gt_area, total.pred_area)[0]
    return by_classifier


def gt_areas(folder: Path, benchmark: Benchmark) -> IntArray:
    """Return the number of ground-truth pixels of each class over all images that were read, int64 `[K]`."""
    rows = next(iter(_rows_by_classifier(tables.read(folder, "segmentations")).values()))
    return np.asarray(totals_of_rows(rows, benchmark).gt_area.sum(0))


def totals_of_rows(rows: pa.Table, benchmark: Benchmark) -> ClassTotals:
    """Compute the totals of each image among some rows of the table `segmentations`."""
    index = [np.asarray(row, np.int64) for row in rows["confusion_index"].to_pylist()]
    pixels = [np.asarray(row, np.int64) for row in rows["pixels"].to_pylist()]
    return class_totals(index, pixels, len(benchmark.names))


def _rows_by_classifier(table: pa.Table) -> Mapping[tuple[str, str], pa.Table]:
    """The rows of each model and classifier."""
    keys = table.select(["model", "classifier"]).group_by(["model", "classifier"]).aggregate([]).to_pylist()
    return {
        (key["model"], key["classifier"]): table.filter(
            pc.and_(pc.equal(table["model"], key["model"]), pc.equal(table["classifier"], key["classifier"]))
        )
        for key in keys
    }


def _metrics_of_rows(rows: pa.Table, benchmark: Benchmark, repeats: int) -> dict[str, Any]:
    totals = totals_of_rows(rows, benchmark)
    seen = None if benchmark.seen is None else np.array(benchmark.seen)
    metrics: dict[str, Any] = dict(segmentation_metrics(totals, seen))
    if repeats:
        metrics |= {f"{name}_interval": list(ends) for name, ends in bootstrap_intervals(totals, repeats).items()}
    gt_classes = rows["gt_classes"].combine_chunks()
    if gt_classes.null_count < len(gt_classes):
        gt = pc.list_flatten(gt_classes).to_numpy().astype(np.int64)
        pred = pc.list_flatten(rows["pred_classes"].combine_chunks()).to_numpy().astype(np.int64)
        metrics |= accuracies(gt, pred, len(benchmark.names), seen)
    return metrics
