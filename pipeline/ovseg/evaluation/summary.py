"""From the table `segmentations` to figures: metrics of each model and classifier, and of each class."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ovseg.core import tables
from ovseg.datasets.benchmark import Benchmark
from ovseg.evaluation.confusion import Totals, totals
from ovseg.evaluation.mask_accuracy import accuracies
from ovseg.evaluation.metrics import Floats, intervals, ious, metrics

Figures = dict[str, dict[str, Any]]
"""Metrics by classifier."""


def summarise(folder: Path, benchmark: Benchmark, repeats: int = 1000) -> dict[str, Figures]:
    """The metrics of every model of an evaluation with one mask threshold.

    Args:
        folder: of the table `segmentations`.
        benchmark: that it is of.
        repeats: bootstrap samples of the intervals; 0 for none.

    Returns:
        by model and classifier ("clip", "proposals", "ensemble", "oracle_masks", "oracle_labels"), see `metrics`; with
        "miou_interval" and "miou_gt_interval" (95%, over images). "oracle_masks" has the mask accuracies too, see
        `accuracies`. What needs no CLIP stands with every model.
    """
    table = tables.read(folder, "segmentations")
    models = [name for name in pc.unique(table["model"]).to_pylist() if name]
    found: dict[str, Figures] = {model: {} for model in models}
    for (model, classifier), rows in ways(table).items():
        figures = _figures(rows, benchmark, repeats)
        for name in [model] if model else models:
            found[name][classifier] = figures
    return found


def per_class(folder: Path, benchmark: Benchmark) -> dict[tuple[str, str], Floats]:
    """IoU of each class `[K]` by model (empty for what needs no CLIP) and classifier; NaN without true or guessed pixels."""
    table = tables.read(folder, "segmentations")
    found = {}
    for way, rows in ways(table).items():
        whole = totals_of(rows, benchmark).sum()
        found[way] = ious(whole.right, whole.true, whole.guessed)[0]
    return found


def true_pixels(folder: Path, benchmark: Benchmark) -> Any:
    """True pixels of each class, int64 `[K]`."""
    rows = next(iter(ways(tables.read(folder, "segmentations")).values()))
    return totals_of(rows, benchmark).true.sum(0)


def ways(table: pa.Table) -> Mapping[tuple[str, str], pa.Table]:
    """The rows of each model and classifier."""
    keys = table.select(["model", "classifier"]).group_by(["model", "classifier"]).aggregate([]).to_pylist()
    return {
        (key["model"], key["classifier"]): table.filter(
            pc.and_(pc.equal(table["model"], key["model"]), pc.equal(table["classifier"], key["classifier"]))
        )
        for key in keys
    }


def _figures(rows: pa.Table, benchmark: Benchmark, repeats: int) -> dict[str, Any]:
    whole = totals_of(rows, benchmark)
    seen = None if benchmark.seen is None else np.array(benchmark.seen)
    figures: dict[str, Any] = dict(metrics(whole, seen))
    if repeats:
        figures |= {f"{name}_interval": list(ends) for name, ends in intervals(whole, repeats).items()}
    labels = rows["labels"].combine_chunks()
    if labels.null_count < len(labels):
        true = pc.list_flatten(labels).to_numpy().astype(np.int64)
        guessed = pc.list_flatten(rows["guesses"].combine_chunks()).to_numpy().astype(np.int64)
        figures |= accuracies(true, guessed, len(benchmark.names), seen)
    return figures


def totals_of(rows: pa.Table, benchmark: Benchmark) -> Totals:
    """The totals of each image among some rows of the table."""
    cells = [np.asarray(row, np.int64) for row in rows["cells"].to_pylist()]
    pixels = [np.asarray(row, np.int64) for row in rows["pixels"].to_pylist()]
    return totals(cells, pixels, len(benchmark.names))
