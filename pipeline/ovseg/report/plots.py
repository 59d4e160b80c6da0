"""Rows for `dvc plots`: what the pairs are of, how similar they are, how large their masks are.

nouns.tsv       noun, pairs             template bar_horizontal_sorted, x: pairs, y: noun
similarity.tsv  similarity, pairs       template linear; the similarity is the middle of a bin
area.tsv        log10_area_share, pairs template linear; the middle of a bin of the mask's share of its image
benchmarks.tsv  way, benchmark, miou    template bar_horizontal, x: miou, y: way
classes.tsv     class, iou, gain        template bar_horizontal_sorted, x: iou, y: class
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ovseg.core import tables
from ovseg.core.files import write_tsv
from ovseg.report.sampling import similarities

COMMONEST = 30
SIMILARITY_BINS = 40
AREA_EDGES = np.linspace(-5, 0, 26)  # log10 of the share: five bins a decade; what is below stands in the first


def distributions(pairs: Path, index: Path, out: Path) -> None:
    """Write nouns.tsv, similarity.tsv and area.tsv, each with a header.

    Args:
        pairs, index: folders of those tables; the index gives the size of each image.
        out: folder to write to; made if it is not there.

    Raises:
        OvsegError: if a table is missing.
    """
    out.mkdir(parents=True, exist_ok=True)
    table = tables.read(pairs, "pairs", ["image_id", "noun", "similarity", "area"])
    write_tsv(out / "nouns.tsv", ("noun", "pairs"), commonest(table, COMMONEST))
    counts, edges = histogram(similarities(table))
    _write_histogram(out / "similarity.tsv", "similarity", counts, edges)
    shares = np.log10(np.maximum(area_shares(table, index), 10 ** AREA_EDGES[0]))
    _write_histogram(out / "area.tsv", "log10_area_share", np.histogram(shares, AREA_EDGES)[0], AREA_EDGES)


def commonest(pairs: pa.Table, number: int) -> list[tuple[str, int]]:
    """The `number` commonest nouns of a table with the column `noun`, and how many pairs each has; ties by name."""
    counted = [(row["values"], row["counts"]) for row in pc.value_counts(pairs["noun"]).to_pylist()]
    return sorted(counted, key=lambda item: (-item[1], item[0]))[:number]


def histogram(similarity: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Pairs in each of 40 bins between the least and the greatest similarity; NaN is left out.

    Returns:
        counts int64 `[40]`, edges float64 `[41]`; edges 0 to 1 where there is no similarity at all.
    """
    known = similarity[np.isfinite(similarity)]
    counts, edges = np.histogram(known, SIMILARITY_BINS)
    return counts, edges


def area_shares(pairs: pa.Table, index: Path) -> NDArray[np.float64]:
    """The share of its image that each pair's mask covers, float64 `[N]` in (0, 1].

    Args:
        pairs: table with the columns `image_id` and `area`.
        index: folder of the table `index`.
    """
    images = tables.read(index, "index", ["image_id", "width", "height"])
    ids = images["image_id"].to_numpy()
    pixels = images["width"].to_numpy().astype(np.float64) * images["height"].to_numpy()
    order = np.argsort(ids)
    place = np.searchsorted(ids[order], pairs["image_id"].to_numpy())
    return np.asarray(pairs["area"].to_numpy() / pixels[order][place], dtype=np.float64)


def _write_histogram(path: Path, name: str, counts: NDArray[np.int64], edges: NDArray[np.float64]) -> None:
    middles = (edges[:-1] + edges[1:]) / 2
    write_tsv(path, (name, "pairs"), zip(middles.round(5).tolist(), counts.tolist(), strict=True))


def write_benchmark_rows(benchmarks: Mapping[str, Any], out: Path) -> None:
    """Write benchmarks.tsv: mIoU of each model's ensemble on each benchmark, see `paper.figures`."""
    rows = [
        (f"{name}, {model}", name, f"{figures['ensemble']['miou']:.4f}")
        for name, models in benchmarks.items()
        for model, figures in models.items()
    ]
    write_tsv(out / "benchmarks.tsv", ("way", "benchmark", "miou"), rows)


def write_class_rows(report: Path, first: str, last: str, out: Path) -> list[dict[str, str]]:
    """Write classes.tsv: IoU of each class of one benchmark by `last`, and what it gained over `first`.

    Args:
        report: folder of the benchmark's report.
        first, last: columns of its classes.tsv.
        out: folder to write to.

    Returns:
        all its rows.
    """
    with (report / "classes.tsv").open(encoding="utf-8", newline="") as stream:
        found = list(csv.DictReader(stream, delimiter="\t"))
    known = [row for row in found if row[first] and row[last]]
    rows = [(row["class"], row[last], f"{float(row[last]) - float(row[first]):+.4f}") for row in known]
    write_tsv(out / "classes.tsv", ("class", "iou", "gain"), rows)
    return found
