"""reports/tables.md: what this run measured, and the paper's tables beside ours."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ovseg.report.paper import TABLES, Figures, Runs, lines, markdown

CLASSIFIERS = ("clip", "proposals", "ensemble", "oracle_masks", "oracle_labels")
MEASURES = ("miou", "miou_gt", "fwiou", "macc", "pacc", "miou_seen", "miou_unseen", "hiou")
PAPER = "arXiv 2210.04150"


def read_runs(path: Path) -> Runs:
    """Runs of other variants, as `python -m experiments.paper` stores them; none if it was not run."""
    if not path.is_file():
        return {}
    stored: dict[str, dict[str, Figures]] = json.loads(path.read_text(encoding="utf-8"))
    return {variant: [seeds[seed] for seed in sorted(seeds)] for variant, seeds in stored.items()}


def sections(this: Figures, others: Runs, demo: bool) -> list[tuple[str, str, list[list[str]]]]:
    """The tables of the report: title, a sentence, and cells with their header.

    Args:
        this: figures of this run, see `paper.figures`.
        others: runs of other variants and seeds.
        demo: the benchmarks are the demo's, so that the paper's tables can be laid beside them.
    """
    found = [
        (
            "Benchmarks",
            "mIoU in percent by OVSeg's rule, ensemble of both classifiers; in brackets the 95% interval over images.",
            _overview(this["benchmarks"]),
        )
    ]
    found += [
        (
            f"Benchmark {name}",
            "In percent. miou: over classes with true or guessed pixels; miou_gt: with true pixels.",
            _one(models),
        )
        for name, models in this["benchmarks"].items()
    ]
    if demo:
        mine: Runs = {"default": [this]}
        for table in TABLES:
            found.append(
                (
                    f"{table.title}, this run",
                    f"Paper: {PAPER}, Swin-B and ViT-L/14; ours: the demo.",
                    lines(table, mine),
                )
            )
            if others:
                found.append((f"{table.title}, over seeds", "By `python -m experiments.paper`.", lines(table, others)))
    return found


def write_tables(path: Path, tables: Sequence[tuple[str, str, list[list[str]]]]) -> None:
    """Write the tables as Markdown."""
    parts = [f"## {title}\n\n{sentence}\n\n{markdown(cells)}\n" for title, sentence, cells in tables]
    path.write_text("# Tables\n\n" + "\n".join(parts), encoding="utf-8")


def _overview(benchmarks: Mapping[str, Any]) -> list[list[str]]:
    names = list(benchmarks)
    models = list(next(iter(benchmarks.values())))
    rows = [["model", *names]]
    for model in models:
        row = [model]
        for name in names:
            figures = benchmarks[name][model]["ensemble"]
            low, high = figures["miou_interval"]
            row.append(f"{100 * figures['miou']:.1f} ({100 * low:.1f} to {100 * high:.1f})")
        rows.append(row)
    return rows


def _one(models: Mapping[str, Any]) -> list[list[str]]:
    used = [m for m in MEASURES if any(m in models[model][c] for model in models for c in CLASSIFIERS)]
    rows = [["model", "classifier", *used, "mask_accuracy"]]
    for model, figures in models.items():
        for classifier in CLASSIFIERS:
            accuracy = f"{100 * figures['mask_accuracy']:.1f}" if classifier == "oracle_masks" else ""
            cells = [f"{100 * figures[classifier][m]:.1f}" if m in figures[classifier] else "" for m in used]
            rows.append([model, classifier, *cells, accuracy])
    return rows
