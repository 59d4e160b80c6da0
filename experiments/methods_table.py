"""The leaderboard as a table of docs/methods.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from ovseg.report.metric_tables import markdown

Runs = Sequence[Mapping[str, Any]]
"""The figures of a row, one mapping for each seed."""
BENCHMARKS = ("annotated", "mixed", "novel", "all", "fine")
SPLIT = ("mixed", "all")
"""The benchmarks with both kinds of classes."""
CROPS = ("text_prompts", "crops")
"""The values of `finetune.method` whose CLIP sees crops."""


def tables_of(results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Return both tables, one below the other."""
    return "\n\n".join((segmentation_table(results), region_table(results)))


def segmentation_table(results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Return mIoU in percent of every row: mean, and standard deviation over the seeds if there are several."""
    groups = [(name, group) for name in SPLIT for group in ("seen", "unseen")]
    split = [f"{name}: {group}" for name, group in groups]
    header = ["method", *BENCHMARKS, *split, "all: CLIP alone", "weight of CLIP", "seeds"]
    columns: list[Callable[[Mapping[str, Any]], float]] = [
        *(_miou(name, "miou") for name in BENCHMARKS),
        *(_miou(name, f"miou_{group}") for name, group in groups),
        _miou("all", "clip_miou"),
    ]
    rows = []
    for name, runs in _runs(results):
        weights = sorted({run["choice"]["weight"] for run in runs})
        weight = " to ".join(f"{value:.1f}" for value in dict.fromkeys((weights[0], weights[-1])))
        rows.append([name, *(percent([column(run) for run in runs]) for column in columns), weight, str(len(runs))])
    return markdown([header, *rows])


def region_table(results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Return mask accuracy in percent and the costs of every row."""
    groups = ("annotated", "not annotated", "all")
    header = ["method", *groups, "GFLOPs", "ms", "trained parameters", "steps", "training"]
    rows = []
    for name, runs in _runs(results):
        accuracies = [percent([run["mask_accuracy"][group] for run in runs]) for group in groups]
        first = runs[0]
        costs = [f"{value:g}" if value else "" for value in (first.get("gflops"), first.get("ms"))]
        trained, steps = first["trained_parameters"], first["steps"]
        timed = [run["seconds"] for run in runs if run.get("seconds")]
        seconds = f"{mean(timed):.0f} s" if timed else ""
        rows.append([name, *accuracies, *costs, f"{trained:,}" if trained else "", f"{steps:.0f}", seconds])
    return markdown([header, *rows])


def _runs(results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[tuple[str, Runs]]:
    """The seeds of each row that are measured; costs may be stored before."""
    measured = {
        row: [by_seed[seed] for seed in sorted(by_seed) if "benchmarks" in by_seed[seed]]
        for row, by_seed in results.items()
    }
    return [(row, runs) for row, runs in measured.items() if runs]


def _miou(benchmark: str, metric: str) -> Callable[[Mapping[str, Any]], float]:
    return lambda run: float(run["benchmarks"][benchmark][metric])


def percent(values: Sequence[float]) -> str:
    """Return the mean of fractions in percent, with their standard deviation if there are several."""
    return f"{100 * mean(values):.1f}" + (f" ± {100 * stdev(values):.1f}" if len(values) > 1 else "")
