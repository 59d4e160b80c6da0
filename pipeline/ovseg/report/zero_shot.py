"""Is the result zero-shot? The overlap of each benchmark's classes with the training data, and the mIoU of each group."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from ovseg.core import tables
from ovseg.core.errors import OvsegError
from ovseg.core.files import write_tsv
from ovseg.datasets import benchmark as layout
from ovseg.datasets.benchmark import read_benchmark
from ovseg.evaluation.benchmark_metrics import class_ious
from ovseg.evaluation.metrics import FloatArray
from ovseg.evaluation.vocabulary_overlap import (
    GROUPS,
    ClassOverlap,
    group_counts,
    miou_by_group,
    vocabulary_overlap,
)
from ovseg.proposals import network_folder
from ovseg.report.metric_tables import Section
from ovseg.report.plots import most_common_nouns

HEADER = ("benchmark", "class", "group", "annotated_as", "mined_as", "pairs", "iou")
TEXT = (
    "Classes whose name or synonym was annotated in training, or is the noun of a mined pair; and the mIoU of {model} with the "
    "ensemble, in percent over each group (mean over the classes with ground truth or prediction). Names are compared letter "
    'by letter, ignoring case, blanks and hyphens: "diningtable" equals "dining table", but "black cat" does not equal "cat", '
    'nor "sky-other" "sky", so the overlap is rather too small. The pretraining data of CLIP is not counted. plots/overlap.tsv '
    "lists every class."
)


def measure_zero_shot(
    pairs: Path,
    proposal_network: Path,
    folder: Path,
    evaluated: Path,
    benchmarks: Sequence[str],
    model: str,
    out: Path,
) -> dict[str, Any]:
    """Compare the names of benchmarks with those of the training data, and write overlap.tsv with a row for each class.

    Args:
        pairs: the folder of the table `pairs`. Its annotated pairs are not mined: their names count as annotated.
        proposal_network: the folder of the proposal network, whose metadata lists the names it was trained on.
        folder: the folder of the benchmarks.
        evaluated: the folder of their tables `segmentations`.
        benchmarks: the names of the benchmarks.
        model: the model whose ensemble is split into groups.
        out: the folder of overlap.tsv; it is created if it does not exist.

    Returns:
        "annotated_names" and "mined_nouns", the numbers of both; "model"; and "benchmarks", which has for each benchmark the
        counts of `group_counts`, the means of `miou_by_group`, and "source", the origin of its names.

    Raises:
        OvsegError: the metadata of the proposal network lists no names, or a table or benchmark is missing.
    """
    annotated, mined = _training_names(pairs, proposal_network)
    results: dict[str, Any] = {}
    rows: list[tuple[object, ...]] = []
    for name in benchmarks:
        benchmark = read_benchmark(folder / name)
        iou = class_ious(evaluated / name, benchmark)[model, "ensemble"]
        overlaps = vocabulary_overlap(benchmark.names, annotated, mined)
        means = {key: round(value, 6) for key, value in miou_by_group(overlaps, iou).items()}
        results[name] = {**group_counts(overlaps), **means, "source": _source(benchmark.folder)}
        rows += _rows(name, overlaps, iou)
    out.mkdir(parents=True, exist_ok=True)
    write_tsv(out / "overlap.tsv", HEADER, rows)
    return {"annotated_names": len(annotated), "mined_nouns": len(mined), "model": model, "benchmarks": results}


def zero_shot_section(zero_shot: Mapping[str, Any]) -> Section:
    """Return the result of `measure_zero_shot` as a table of the report."""
    header = ["benchmark", "classes", "annotated", "mined", "mined only", "neither", "pairs"]
    cells = [[*header, *(f"mIoU {group.replace('_', ' ')}" for group in GROUPS), "source of the names"]]
    for name, result in zero_shot["benchmarks"].items():
        numbers = [f"{result[column.replace(' ', '_')]:,}" for column in header[1:]]
        means = [result.get(f"miou_{group}") for group in GROUPS]
        percents = ["" if mean is None else f"{100 * mean:.1f}" for mean in means]
        cells.append([name, *numbers, *percents, result["source"]])
    return Section("Zero-shot?", TEXT.format(model=zero_shot["model"]), cells)


def _training_names(pairs: Path, proposal_network: Path) -> tuple[set[str], list[tuple[str, int]]]:
    """The names of annotated masks, and the mined nouns with their numbers of pairs."""
    table = tables.read(pairs, "pairs", ["noun", "source"])
    is_annotated = pc.equal(table["source"], "annotated")
    annotated = {*_network_names(proposal_network), *pc.unique(table.filter(is_annotated)["noun"]).to_pylist()}
    return annotated, most_common_nouns(table.filter(pc.invert(is_annotated)), table.num_rows)


def _network_names(proposal_network: Path) -> list[str]:
    path = proposal_network / network_folder.METADATA
    try:
        return [str(name) for name in json.loads(path.read_text(encoding="utf-8"))["names"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OvsegError(
            f"{path} does not list the class names of the training ({error!r}); run the stage `proposal_network` again"
        ) from None


def _source(folder: Path) -> str:
    return str(json.loads((folder / layout.METADATA).read_text(encoding="utf-8")).get("source", ""))


def _rows(benchmark: str, overlaps: Sequence[ClassOverlap], iou: FloatArray) -> list[tuple[object, ...]]:
    return [
        (
            benchmark,
            overlap.name,
            overlap.group,
            "; ".join(overlap.annotated),
            "; ".join(overlap.mined),
            sum(overlap.mined.values()),
            "" if np.isnan(value) else f"{value:.4f}",
        )
        for overlap, value in zip(overlaps, iou.tolist(), strict=True)
    ]
