"""The metrics of a run: all of them for reports/metrics.json, a few for `dvc exp show`, and the headline of the page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ovseg.core.errors import OvsegError
from ovseg.evaluation.benchmark_metrics import CLASSIFIERS

MEASURED = ("proposal_network", "base", "finetune", "prompt")


def read_benchmark_metrics(reports: Path, benchmarks: Sequence[str]) -> dict[str, Any]:
    """Read what the stage `evaluate` measured.

    Args:
        reports: the folder of the reports of a run.
        benchmarks: the names of the benchmarks.

    Returns:
        benchmark -> model -> classifier -> metrics; mask accuracies and the calibration stand beside the classifiers.

    Raises:
        OvsegError: a benchmark has no metrics.
    """
    return {name: _read_json(reports / "evaluate" / name / "metrics.json")["models"] for name in benchmarks}


def read_measurements(reports: Path) -> dict[str, Any]:
    """Read what the stage `measure` measured of each model: the recall of proposals, or the mask accuracy of a CLIP.

    Raises:
        OvsegError: a model was not measured.
    """
    return {name: _read_json(reports / "measure" / name / "metrics.json") for name in MEASURED}


def without_intervals(benchmarks: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics of benchmarks, see `read_benchmark_metrics`, without the bootstrap intervals."""
    return {
        name: {
            model: {
                key: {metric: value for metric, value in figures.items() if not metric.endswith("_interval")}
                if key in CLASSIFIERS
                else figures
                for key, figures in by_classifier.items()
            }
            for model, by_classifier in models.items()
        }
        for name, models in benchmarks.items()
    }


def summary(metrics: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return the few metrics that runs are compared by, rounded to four digits.

    Args:
        metrics: the content of reports/metrics.json.
        model: the model whose mIoU is taken.
    """
    short: dict[str, Any] = {"pairs": metrics["pairs"]}
    if "pair_precision" in metrics:
        short["pair_precision"] = round(metrics["pair_precision"], 4)
    measured = metrics["measure"]
    short["proposal_ar"] = round(measured["proposal_network"]["ar"], 4)
    for stage in ("finetune", "prompt"):
        short[f"mask_accuracy_{stage}"] = round(measured[stage]["model"]["mask_accuracy"], 4)
    short["miou"] = {
        name: round(models[model]["ensemble"]["miou"], 4) for name, models in metrics["benchmarks"].items()
    }
    return short


def headline(metrics: Mapping[str, Any], models: Sequence[str], benchmark: str) -> dict[str, str]:
    """Return the values at the top of the page, by their labels.

    Args:
        metrics: the content of reports/metrics.json.
        models: the names of the models, the one before adaptation first, the result last.
        benchmark: the benchmark that is shown.
    """
    values = {"mined pairs": f"{metrics['pairs']:,}"}
    if "pair_precision" in metrics:
        values["precision of the pairs"] = f"{metrics['pair_precision']:.1%}"
    values["recall of proposals at IoU 0.5"] = f"{metrics['measure']['proposal_network']['recall_50']:.1%}"
    for model in models:
        values[f"mIoU of {model} on benchmark {benchmark}"] = (
            f"{metrics['benchmarks'][benchmark][model]['ensemble']['miou']:.1%}"
        )
    return values


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OvsegError(f"{path} cannot be read ({error}); run the stage `{path.parents[1].name}` first") from None
