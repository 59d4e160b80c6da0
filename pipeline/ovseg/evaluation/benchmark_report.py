"""One benchmark's figures as files: metrics.json, rows of classes for `dvc plots`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ovseg.core import tables
from ovseg.core.errors import OvsegError
from ovseg.core.files import write_tsv
from ovseg.datasets.benchmark import Benchmark
from ovseg.evaluation.calibrate import Choice
from ovseg.evaluation.summary import per_class, summarise, true_pixels


def write_benchmark_report(table: Path, benchmark: Benchmark, out: Path, choices: Mapping[str, Choice]) -> None:
    """Write the figures of one benchmark to `out`.

    metrics.json   {"images", "classes", "models": {model: {classifier: metrics, "mask_accuracy": ..., "choice": ...}}}
    classes.tsv    class, seen, true pixels, and the IoU of each model and classifier (empty without true or guessed pixels)

    Args:
        table: folder of the table `segmentations`.
        benchmark: that it is of.
        out: folder; made if needed.
        choices: weight and threshold of each model, the result's last.

    Raises:
        OvsegError: no image could be read.
    """
    counts = tables.read_counts(table)
    if not counts.get("images"):
        raise OvsegError(f"no image of {benchmark.folder} can be read; see {table / 'failures'}")
    out.mkdir(parents=True, exist_ok=True)
    models = summarise(table, benchmark)
    if "miou" not in models[next(iter(choices))]["ensemble"]:
        raise OvsegError(
            f"no pixel of {benchmark.folder} is scored: all of its labels are {benchmark.ignore}, to be ignored"
        )
    found = {
        "images": counts["images"],
        "classes": len(benchmark.names),
        "dropped": {name[8:]: number for name, number in counts.items() if name.startswith("dropped.")},
        "models": {model: _in_order(models[model]) | {"choice": asdict(choices[model])} for model in choices},
    }
    (out / "metrics.json").write_text(json.dumps(_rounded(found), indent=1) + "\n", encoding="utf-8")
    _write_classes(table, benchmark, out / "classes.tsv")


def _in_order(figures: dict[str, dict[str, object]]) -> dict[str, object]:
    """The classifiers in HOUSE's order; mask accuracies, which came with the true masks, beside them."""
    accuracies = {name: value for name, value in figures["oracle_masks"].items() if name.startswith("mask_accuracy")}
    oracle = {name: value for name, value in figures["oracle_masks"].items() if name not in accuracies}
    order = ("clip", "proposals", "ensemble", "oracle_labels")
    return {name: figures[name] for name in order} | {"oracle_masks": oracle} | accuracies


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list) else value


def _write_classes(table: Path, benchmark: Benchmark, path: Path) -> None:
    found = per_class(table, benchmark)
    pixels = true_pixels(table, benchmark)
    header = ["class", "seen", "true_pixels", *("/".join(filter(None, way)) for way in found)]
    rows = []
    for k, names in enumerate(benchmark.names):
        seen = "" if benchmark.seen is None else "yes" if benchmark.seen[k] else "no"
        ious = ["" if np.isnan(iou[k]) else f"{iou[k]:.4f}" for iou in found.values()]
        rows.append([names[0], seen, int(pixels[k]), *ious])
    write_tsv(path, header, rows)
