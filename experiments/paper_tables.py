"""The tables of the OVSeg paper beside the same tables measured here: which run gives which cell, and their layout.

A run is a dict `{"benchmarks": {name: {model: {classifier: {metric: value}}}}}`, as in reports/metrics.json. The runs of
one variant differ only in their seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import mean, stdev
from typing import Any

Run = Mapping[str, Any]
Runs = Mapping[str, Sequence[Run]]
"""The runs of each variant, one per seed."""

METRIC = "miou"  # mean over the classes with ground truth or prediction, the rule that the paper uses
ROLES = {"A-847": "fine", "PC-459": "novel", "A-150": "all", "PC-59": "mixed", "PAS-20": "annotated"}
"""Each benchmark of the paper and the benchmark of the demo that takes its place."""


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        name: the label of the row.
        paper: the figure of the paper in percent for each column; None where the paper gives none.
        variant: the variant (see `experiments.paper`) whose runs give our figures.
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
    """One table; its columns are benchmarks of the paper, keys of `ROLES`."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


THREE_COLUMNS = ("A-847", "A-150", "PC-59")
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
        THREE_COLUMNS,
        (
            Row("CLIP as it is", (7.3, 21.8, 51.4), "default", "base"),
            Row("ground-truth masks, ground-truth classes", (5.3, 23.0, 57.3), "gt-classes", "finetune"),
            Row("ground-truth masks, caption nouns", (7.9, 24.2, 53.2), "gt-masks", "finetune"),
            Row("proposals, 1 caption", (8.8, 28.8, 55.7), "default", "finetune"),
            Row("proposals, 5 captions", (8.8, 28.6, 55.5), "captions-5", "finetune"),
        ),
    ),
    Table(
        "Table 3: finetuning (FT) and mask prompt tuning (MPT)",
        THREE_COLUMNS,
        (
            Row("CLIP as it is", (7.3, 21.8, 51.4), "default", "base"),
            Row("MPT alone", (8.4, 26.5, 55.4), "prompt-first", "prompt"),
            Row("FT alone", (8.8, 28.8, 55.7), "default", "finetune"),
            Row("FT, then MPT", (9.0, 29.6, 55.7), "default", "prompt"),
        ),
    ),
    Table(
        "Table 4: the classifiers and their ensemble",
        ("A-150",),
        (
            Row("proposal network alone", (19.6,), "default", "base", "proposals"),
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
            Row("ground-truth masks, CLIP as it is, unmasked crops", (13.8,), "unmasked", "base", "oracle_masks"),
            Row("ground-truth masks, CLIP as it is", (20.1,), "default", "base", "oracle_masks"),
            Row("proposals, ground-truth classes", (66.5,), "default", "base", "oracle_labels"),
        ),
    ),
)


def values(runs: Runs, row: Row, column: str) -> list[float]:
    """Return the figure of a row and column in percent, one for each run that has it."""
    percents = []
    for run in runs.get(row.variant, ()):
        model = run["benchmarks"].get(ROLES[column], {}).get(row.model, {})
        if row.classifier in model:
            percents.append(100 * float(model[row.classifier][METRIC]))
    return percents


def table_cells(table: Table, runs: Runs) -> list[list[str]]:
    """Return a table as cells, header first: the row's name, then the paper's figure and ours for each column."""
    header = [table.title.split(":")[0].split(" (")[0]]
    for column in table.columns:
        header += [f"{column}, paper", f"{ROLES[column]}, ours"]
    cells = [header]
    for row in table.rows:
        line = [row.name]
        for column, paper in zip(table.columns, row.paper, strict=True):
            line += ["" if paper is None else f"{paper:.1f}", mean_and_deviation(values(runs, row, column))]
        cells.append(line)
    return cells


def mean_and_deviation(percents: Sequence[float]) -> str:
    """Return the mean, with the standard deviation if there are several values; an empty text for none."""
    if not percents:
        return ""
    return f"{mean(percents):.1f}" if len(percents) == 1 else f"{mean(percents):.1f} ± {stdev(percents):.1f}"


def comparison_cells(table: Table, runs: Runs) -> list[list[str]]:
    """Compare every two rows of a table: the difference in the paper and here, and whether both have the same sign.

    Returns:
        cells, header first: the two rows, and for each column the paper's difference, ours, and a verdict: "yes", "no",
        "undecided" (ours is within twice its standard error) or "one seed". An empty text where a figure is missing; no
        verdict where the paper's figures are equal, since their difference has no sign.
    """
    cells = [["comparison", *(f"{column} / {ROLES[column]}" for column in table.columns)]]
    for first, second in combinations(table.rows, 2):
        line = [f"{second.name} - {first.name}"]
        for i, column in enumerate(table.columns):
            line.append(
                _comparison(first.paper[i], second.paper[i], values(runs, first, column), values(runs, second, column))
            )
        cells.append(line)
    return cells


def count_verdicts(runs: Runs) -> Counter[str]:
    """Count the verdicts of all tables; the difference of the same two results in several tables counts once."""
    verdicts: dict[tuple[frozenset[tuple[str, str, str]], str], str] = {}
    for table in TABLES:
        lines = comparison_cells(table, runs)[1:]
        for rows, (_, *cells) in zip(combinations(table.rows, 2), lines, strict=True):
            results = frozenset((row.variant, row.model, row.classifier) for row in rows)
            for column, cell in zip(table.columns, cells, strict=True):
                if ": " in cell:
                    verdicts[results, column] = cell.rpartition(": ")[2]
    return Counter(verdicts.values())


def _comparison(first_paper: float | None, second_paper: float | None, first: list[float], second: list[float]) -> str:
    if first_paper is None or second_paper is None or not first or not second:
        return ""
    paper, ours = second_paper - first_paper, mean(second) - mean(first)
    differences = f"{paper:+.1f} / {ours:+.1f}"
    if not paper:
        return differences
    error = sum(stdev(seeds) ** 2 / len(seeds) for seeds in (first, second) if len(seeds) > 1) ** 0.5
    same_sign = "yes" if (paper > 0) == (ours > 0) else "no"
    verdict = "undecided" if abs(ours) <= 2 * error else same_sign
    if min(len(first), len(second)) == 1:
        verdict = "one seed"
    return f"{differences}: {verdict}"
