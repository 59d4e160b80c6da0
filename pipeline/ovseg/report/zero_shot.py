"""Is it zero-shot? What training has seen of each benchmark's names, and mIoU by that: metrics, a table, and overlap.tsv."""

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
from ovseg.evaluation.metrics import Floats
from ovseg.evaluation.summary import per_class
from ovseg.evaluation.vocabulary_overlap import GROUPS, Overlap, counts, miou_by_group, vocabulary_overlap
from ovseg.proposals import network_folder
from ovseg.report.plots import commonest

HEADER = ("benchmark", "class", "group", "annotated_as", "mined_as", "pairs", "iou")
SENTENCE = (
    "Classes of which a name or synonym was annotated in training, or is the noun of a mined pair; and mIoU of {model}, "
    "ensemble, in percent by OVSeg's rule over each group of classes. Names are the same letter by letter in lower case, "
    'blanks and hyphens aside: "diningtable" is "dining table", "black cat" is not "cat", and "sky-other" is not "sky", so '
    "what was seen is rather counted too low. What CLIP saw before is not counted. Each class: plots/overlap.tsv."
)


def zero_shot(
    pairs: Path, proposal_network: Path, folder: Path, evaluated: Path, names: Sequence[str], model: str, out: Path
) -> dict[str, Any]:
    """Compare the names of benchmarks with those of training, and write overlap.tsv, a row for each class.

    Args:
        pairs: folder of the table `pairs`. Annotated ones are not mined: their names count as annotated.
        proposal_network: folder of the proposal network, which knows the names that it was trained on.
        folder: of the benchmarks.
        evaluated: folder of their tables `segmentations`.
        names: of the benchmarks.
        model: whose ensemble is split.
        out: folder of overlap.tsv, made if needed.

    Returns:
        "annotated_names" and "mined_nouns", how many there are; "model"; and "benchmarks": for each the counts of
        `overlap.counts`, the means of `overlap.miou_by_group`, and "source", who says what its names are.

    Raises:
        OvsegError: proposal_network.json names no masks, or a table or benchmark is missing.
    """
    annotated, mined = _training(pairs, proposal_network)
    found: dict[str, Any] = {}
    rows: list[tuple[object, ...]] = []
    for name in names:
        benchmark = read_benchmark(folder / name)
        iou = per_class(evaluated / name, benchmark)[model, "ensemble"]
        classes = vocabulary_overlap(benchmark.names, annotated, mined)
        means = {key: round(value, 6) for key, value in miou_by_group(classes, iou).items()}
        found[name] = {**counts(classes), **means, "source": _source(benchmark.folder)}
        rows += _rows(name, classes, iou)
    out.mkdir(parents=True, exist_ok=True)
    write_tsv(out / "overlap.tsv", HEADER, rows)
    return {"annotated_names": len(annotated), "mined_nouns": len(mined), "model": model, "benchmarks": found}


def section(found: Mapping[str, Any]) -> tuple[str, str, list[list[str]]]:
    """What `zero_shot` found as a section of the report: title, a sentence, and cells with their header."""
    header = ["benchmark", "classes", "annotated", "mined", "mined only", "neither", "pairs"]
    cells = [[*header, *(f"mIoU {group.replace('_', ' ')}" for group in GROUPS), "names by"]]
    for name, figures in found["benchmarks"].items():
        numbers = [f"{figures[key.replace(' ', '_')]:,}" for key in header[1:]]
        means = [figures.get(f"miou_{group}") for group in GROUPS]
        cells.append(
            [name, *numbers, *("" if mean is None else f"{100 * mean:.1f}" for mean in means), figures["source"]]
        )
    return "Zero-shot?", SENTENCE.format(model=found["model"]), cells


def _training(pairs: Path, proposal_network: Path) -> tuple[set[str], list[tuple[str, int]]]:
    """Names of annotated masks; mined nouns and how many pairs each has."""
    table = tables.read(pairs, "pairs", ["noun", "source"])
    copied = pc.equal(table["source"], "annotated")
    annotated = {*_trained_on(proposal_network), *pc.unique(table.filter(copied)["noun"]).to_pylist()}
    return annotated, commonest(table.filter(pc.invert(copied)), table.num_rows)


def _trained_on(proposal_network: Path) -> list[str]:
    path = proposal_network / network_folder.METADATA
    try:
        return [str(name) for name in json.loads(path.read_text(encoding="utf-8"))["names"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OvsegError(
            f"{path} does not say which names it was trained on ({error!r}); run the stage `proposal_network`"
        ) from None


def _source(folder: Path) -> str:
    return str(json.loads((folder / layout.ABOUT).read_text(encoding="utf-8")).get("source", ""))


def _rows(benchmark: str, classes: Sequence[Overlap], iou: Floats) -> list[tuple[object, ...]]:
    return [
        (
            benchmark,
            one.name,
            one.group,
            "; ".join(one.annotated),
            "; ".join(one.mined),
            sum(one.mined.values()),
            "" if np.isnan(value) else f"{value:.4f}",
        )
        for one, value in zip(classes, iou.tolist(), strict=True)
    ]
