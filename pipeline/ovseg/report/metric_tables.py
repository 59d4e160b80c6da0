"""reports/tables.md: the metrics of a run as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ovseg.evaluation.benchmark_metrics import CLASSIFIERS

METRICS = (
    "miou",
    "miou_gt",
    "fwiou",
    "macc",
    "pacc",
    "miou_seen",
    "miou_unseen",
    "hiou",
    "miou_gt_seen",
    "miou_gt_unseen",
)
OVERVIEW = (
    "mIoU of the ensemble in percent, mean over the classes with ground truth or prediction; in brackets the 95% interval over "
    "images."
)
BENCHMARK = (
    "In percent. miou: mean IoU over the classes with ground truth or prediction; miou_gt: mean IoU over the classes with "
    "ground truth."
)


class Section(NamedTuple):
    """One table of the report: its title, a text that explains it, and its cells with the header first."""

    title: str
    text: str
    cells: list[list[str]]


def benchmark_sections(benchmarks: Mapping[str, Any]) -> list[Section]:
    """Return the overview of all benchmarks, then one table for each of them.

    Their texts state each model's ensemble weight and mask threshold, and where they come from.

    Args:
        benchmarks: the metrics of a run, see `run_metrics.read_benchmark_metrics`.
    """
    choices = {name: _choices(models) for name, models in benchmarks.items()}
    names_of = {text: [name for name in choices if choices[name] == text] for text in choices.values()}
    texts = [text if len(names_of) == 1 else f"On {', '.join(names)}: {text}" for text, names in names_of.items()]
    sections = [Section("Benchmarks", " ".join([OVERVIEW, *texts]), _overview(benchmarks))]
    for name, models in benchmarks.items():
        sections.append(Section(f"Benchmark {name}", f"{BENCHMARK} {choices[name]}", _details(models)))
    return sections


def write_tables(path: Path, sections: Sequence[Section]) -> None:
    """Write the tables as Markdown to `path`."""
    parts = [f"## {title}\n\n{text}\n\n{markdown(cells)}\n" for title, text, cells in sections]
    path.write_text("# Tables\n\n" + "\n".join(parts), encoding="utf-8")


def markdown(cells: Sequence[Sequence[str]]) -> str:
    """Return cells, header first, as a Markdown table with all columns but the first right-aligned."""
    header, *rows = cells
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def _choices(models: Mapping[str, Any]) -> str:
    """The ensemble weight and the mask threshold of each model, grouped by where they come from."""
    by_source: dict[str, list[str]] = {}
    for model, metrics in models.items():
        choice = metrics["choice"]
        text = f"{model} {choice['weight']:g} and {choice['mask_threshold']:g}"
        by_source.setdefault(choice["source"], []).append(text)
    groups = "; ".join(f"{', '.join(texts)} ({source})" for source, texts in by_source.items())
    return f"Weight of CLIP in the ensemble, and mask threshold: {groups}."


def _overview(benchmarks: Mapping[str, Any]) -> list[list[str]]:
    names = list(benchmarks)
    rows = [["model", *names]]
    for model in next(iter(benchmarks.values())):
        row = [model]
        for name in names:
            metrics = benchmarks[name][model]["ensemble"]
            low, high = metrics["miou_interval"]
            row.append(f"{100 * metrics['miou']:.1f} ({100 * low:.1f} to {100 * high:.1f})")
        rows.append(row)
    return rows


def _details(models: Mapping[str, Any]) -> list[list[str]]:
    shown = [m for m in METRICS if any(m in models[model][c] for model in models for c in CLASSIFIERS)]
    rows = [["model", "classifier", *shown, "mask_accuracy"]]
    for model, metrics in models.items():
        for classifier in CLASSIFIERS:
            accuracy = f"{100 * metrics['mask_accuracy']:.1f}" if classifier == "oracle_masks" else ""
            cells = [f"{100 * metrics[classifier][m]:.1f}" if m in metrics[classifier] else "" for m in shown]
            rows.append([model, classifier, *cells, accuracy])
    return rows
