"""The paper's tables beside the same ones measured on the demo: which run gives which row, and how both are laid out.

A run's figures are `{"benchmarks": {name: {model: {classifier: metrics}}}}`, see `figures`. Runs of one variant differ in their
seed alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import mean, stdev
from typing import Any

Figures = Mapping[str, Any]
Runs = Mapping[str, Sequence[Figures]]
"""Figures of each variant, a run for each seed."""

METRIC = "miou"  # OVSeg's rule
ROLES = {"A-847": "fine", "PC-459": "novel", "A-150": "all", "PC-59": "mixed", "PAS-20": "annotated"}
"""The paper's benchmarks, and the demo's in their roles."""


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        name: as shown.
        paper: percent in each column; None where the paper has none.
        variant: name of the runs in `experiments`.
        model: "base", "finetune" or "prompt".
        classifier: "clip", "proposals", "ensemble", "oracle_masks" or "oracle_labels".
    """

    name: str
    paper: tuple[float | None, ...]
    variant: str
    model: str
    classifier: str = "ensemble"


@dataclass(frozen=True)
class Table:
    """One table: its columns are benchmarks of the paper, see `ROLES`."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


THREE = ("A-847", "A-150", "PC-59")
TABLES = (
    Table(
        "Table 1: OVSeg on five benchmarks",
        ("A-847", "PC-459", "A-150", "PC-59", "PAS-20"),
        (
            Row("CLIP as it is", (7.3, None, 21.8, 51.4, None), "default", "base"),
            Row("OVSeg", (9.0, 12.4, 29.6, 55.7, 94.5), "default", "prompt"),
        ),
    ),
    Table(
        "Table 2: where the pairs come from (finetuned, no prompts)",
        THREE,
        (
            Row("CLIP as it is", (7.3, 21.8, 51.4), "default", "base"),
            Row("true masks, true classes", (5.3, 23.0, 57.3), "gt-classes", "finetune"),
            Row("true masks, caption nouns", (7.9, 24.2, 53.2), "gt-masks", "finetune"),
            Row("proposals, 1 caption", (8.8, 28.8, 55.7), "default", "finetune"),
            Row("proposals, 5 captions", (8.8, 28.6, 55.5), "captions-5", "finetune"),
        ),
    ),
    Table(
        "Table 3: finetuning and mask prompts",
        THREE,
        (
            Row("CLIP as it is", (7.3, 21.8, 51.4), "default", "base"),
            Row("MPT alone", (8.4, 26.5, 55.4), "prompt-first", "prompt"),
            Row("FT alone", (8.8, 28.8, 55.7), "default", "finetune"),
            Row("FT, then MPT", (9.0, 29.6, 55.7), "default", "prompt"),
        ),
    ),
    Table(
        "Table 4: whose word counts",
        ("A-150",),
        (
            Row("proposals alone", (19.6,), "default", "base", "proposals"),
            Row("CLIP alone, as it is", (14.3,), "default", "base", "clip"),
            Row("ensemble, CLIP as it is", (21.8,), "default", "base", "ensemble"),
            Row("CLIP alone, OVSeg's", (25.1,), "default", "prompt", "clip"),
            Row("ensemble, OVSeg's", (29.6,), "default", "prompt", "ensemble"),
        ),
    ),
    Table(
        "Table 5: the order of training",
        ("A-847", "A-150"),
        (
            Row("FT, then MPT", (9.0, 29.6), "default", "prompt"),
            Row("MPT, then FT", (8.5, 28.1), "prompt-first", "finetune"),
            Row("both at once", (8.8, 29.0), "at-once", "prompt"),
        ),
    ),
    Table(
        "Oracles (paper 1 and A.1)",
        ("A-150",),
        (
            Row("true masks, named by CLIP as it is, unmasked crops", (13.8,), "unmasked", "base", "oracle_masks"),
            Row("true masks, named by CLIP as it is", (20.1,), "default", "base", "oracle_masks"),
            Row("proposals, true names", (66.5,), "default", "base", "oracle_labels"),
        ),
    ),
)


def figures(reports: Path, benchmarks: Sequence[str]) -> dict[str, Any]:
    """What one run measured, from its folder `reports`."""
    found = {}
    for name in benchmarks:
        path = reports / "evaluate" / name / "metrics.json"
        if path.is_file():
            found[name] = json.loads(path.read_text(encoding="utf-8"))["models"]
    return {"benchmarks": found}


def values(runs: Runs, row: Row, column: str) -> list[float]:
    """The row's figure in percent by each run that has it."""
    found = []
    for run in runs.get(row.variant, ()):
        model = run["benchmarks"].get(ROLES[column], {}).get(row.model, {})
        if row.classifier in model:
            found.append(100 * float(model[row.classifier][METRIC]))
    return found


def lines(table: Table, runs: Runs) -> list[list[str]]:
    """A table as cells, its header first: name, then for each column the paper's figure and ours, mean and spread."""
    header = [table.title.split(":")[0].split(" (")[0]]
    for column in table.columns:
        header += [f"{column}, paper", f"{ROLES[column]}, ours"]
    cells = [header]
    for row in table.rows:
        line = [row.name]
        for column, paper in zip(table.columns, row.paper, strict=True):
            line += ["" if paper is None else f"{paper:.1f}", shown(values(runs, row, column))]
        cells.append(line)
    return cells


def shown(found: Sequence[float]) -> str:
    """Mean and, of several, their standard deviation; empty for none."""
    if not found:
        return ""
    return f"{mean(found):.1f}" if len(found) == 1 else f"{mean(found):.1f} ± {stdev(found):.1f}"


def comparisons(table: Table, runs: Runs) -> list[list[str]]:
    """Every two rows of a table that the paper compares: the difference there and here, and whether its sign is the same.

    Returns:
        cells, header first: the two rows, and for each column the paper's difference, ours, and "yes", "no", "undecided"
        (ours is within twice its standard error), "one seed", or "" where either is not known.
    """
    cells = [["comparison", *(f"{column} / {ROLES[column]}" for column in table.columns)]]
    for first, second in combinations(table.rows, 2):
        line = [f"{second.name} - {first.name}"]
        for i, column in enumerate(table.columns):
            line.append(
                _compared(first.paper[i], second.paper[i], values(runs, first, column), values(runs, second, column))
            )
        cells.append(line)
    return cells


def _compared(a: float | None, b: float | None, ours_a: list[float], ours_b: list[float]) -> str:
    if a is None or b is None or not ours_a or not ours_b:
        return ""
    paper, ours = b - a, mean(ours_b) - mean(ours_a)
    error = sum(stdev(some) ** 2 / len(some) for some in (ours_a, ours_b) if len(some) > 1) ** 0.5
    same = "yes" if (paper > 0) == (ours > 0) else "no"
    verdict = "undecided" if abs(ours) <= 2 * error else same
    if min(len(ours_a), len(ours_b)) == 1:
        verdict = "one seed"
    return f"{paper:+.1f} / {ours:+.1f}: {verdict}"


def markdown(cells: Sequence[Sequence[str]]) -> str:
    """Cells, header first, as a Markdown table."""
    header, *rest = cells
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rest))
