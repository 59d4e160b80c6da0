"""What a run comes to: the figures of metrics.json, a few of them for `dvc exp show`, and fewer for the top of the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CLASSIFIERS = ("clip", "proposal_network", "ensemble", "oracle_masks", "oracle_labels")


def trimmed(benchmarks: Mapping[str, Any]) -> dict[str, Any]:
    """Benchmark -> model -> classifier -> metrics, without intervals; mask accuracies stand beside the classifiers."""
    return {
        name: {
            model: {
                key: {metric: value for metric, value in figure.items() if not metric.endswith("_interval")}
                if key in CLASSIFIERS
                else figure
                for key, figure in figures.items()
            }
            for model, figures in models.items()
        }
        for name, models in benchmarks.items()
    }


def summary(metrics: Mapping[str, Any], model: str) -> dict[str, Any]:
    """The few figures by which runs are compared.

    Args:
        metrics: as in metrics.json.
        model: whose mIoU.
    """
    found: dict[str, Any] = {"pairs": metrics["pairs"]}
    if "pair_precision" in metrics:
        found["pair_precision"] = round(metrics["pair_precision"], 4)
    found["proposal_ar"] = round(metrics["proposal_network"]["ar"], 4)
    for stage in ("finetune", "prompt"):
        found[f"mask_accuracy_{stage}"] = round(metrics[stage]["model"]["mask_accuracy"], 4)
    found["miou"] = {
        name: round(models[model]["ensemble"]["miou"], 4) for name, models in metrics["benchmarks"].items()
    }
    return found


def facts_of(metrics: Mapping[str, Any], first: str, last: str, benchmark: str) -> dict[str, str]:
    """Value of each name, for the top of the page; `first` and `last` are models, `benchmark` the one that is shown."""
    models = metrics["benchmarks"][benchmark]
    facts = {"pairs mined": f"{metrics['pairs']:,}"}
    if "pair_precision" in metrics:
        facts["of them right"] = f"{metrics['pair_precision']:.1%}"
    facts["recall of proposals, IoU 0.5"] = f"{metrics['proposal_network']['recall_50']:.1%}"
    facts[f"mIoU on {benchmark}, {first}"] = f"{models[first]['ensemble']['miou']:.1%}"
    if last != first:
        facts[f"mIoU on {benchmark}, {last}"] = f"{models[last]['ensemble']['miou']:.1%}"
    facts[f"mask accuracy on {benchmark}, {last}"] = f"{models[last]['mask_accuracy']:.1%}"
    return facts
