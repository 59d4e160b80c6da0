"""Data of the plots that `dvc plots` draws, as TSV files:

nouns.tsv        noun, pairs                    the most common nouns
similarity.tsv   similarity, pairs              the middle of a histogram bin and its number of pairs
area.tsv         log10_area_fraction, pairs     likewise, of the fraction of the image that a mask covers
benchmarks.tsv   result, benchmark, miou        the ensemble of each model on each benchmark
classes.tsv      class, iou, gain               each class of one benchmark by the last model, and the gain over the first

Shapes: N pairs.
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
from ovseg.core.errors import OvsegError
from ovseg.core.files import write_tsv
from ovseg.report.sampling import similarities

NUM_NOUNS = 30
SIMILARITY_BINS = 40
AREA_EDGES = np.linspace(
    -5, 0, 26
)  # log10 of the fraction, five bins per decade; smaller masks are counted in the first


def write_distributions(pairs: Path, index: Path, out: Path) -> None:
    """Write nouns.tsv, similarity.tsv and area.tsv.

    Args:
        pairs: the folder of the table `pairs`.
        index: the folder of the table `index`, which has the size of each image.
        out: the folder to write to; it is created if it does not exist.

    Raises:
        OvsegError: a table is missing.
    """
    out.mkdir(parents=True, exist_ok=True)
    table = tables.read(pairs, "pairs", ["image_id", "noun", "similarity", "area"])
    write_tsv(out / "nouns.tsv", ("noun", "pairs"), most_common_nouns(table, NUM_NOUNS))
    counts, edges = similarity_histogram(similarities(table))
    _write_histogram(out / "similarity.tsv", "similarity", counts, edges)
    fractions = np.log10(np.maximum(area_fractions(table, index), 10 ** AREA_EDGES[0]))
    _write_histogram(out / "area.tsv", "log10_area_fraction", np.histogram(fractions, AREA_EDGES)[0], AREA_EDGES)


def most_common_nouns(pairs: pa.Table, number: int) -> list[tuple[str, int]]:
    """Return the `number` most common nouns of a table with the column `noun` and their numbers of pairs; ties by name."""
    counts = [(row["values"], row["counts"]) for row in pc.value_counts(pairs["noun"]).to_pylist()]
    return sorted(counts, key=lambda item: (-item[1], item[0]))[:number]


def similarity_histogram(similarity: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Count the pairs in 40 bins between the smallest and the largest similarity; NaN is left out.

    Args:
        similarity: float64 `[N]`.

    Returns:
        counts int64 `[40]` and edges float64 `[41]`; the edges reach from 0 to 1 where there is no similarity at all.
    """
    finite = similarity[np.isfinite(similarity)]
    counts, edges = np.histogram(finite, SIMILARITY_BINS)
    return counts, edges


def area_fractions(pairs: pa.Table, index: Path) -> NDArray[np.float64]:
    """Return the fraction of its image that the mask of each pair covers, float64 `[N]` in (0, 1].

    Args:
        pairs: a table with the columns `image_id` and `area`.
        index: the folder of the table `index`.
    """
    images = tables.read(index, "index", ["image_id", "width", "height"])
    ids = images["image_id"].to_numpy()
    pixels = images["width"].to_numpy().astype(np.float64) * images["height"].to_numpy()
    order = np.argsort(ids)
    position = np.searchsorted(ids[order], pairs["image_id"].to_numpy())
    return np.asarray(pairs["area"].to_numpy() / pixels[order][position], dtype=np.float64)


def write_benchmark_plot(benchmarks: Mapping[str, Any], out: Path) -> None:
    """Write benchmarks.tsv.

    Args:
        benchmarks: the metrics of a run, see `run_metrics.read_benchmark_metrics`.
        out: the folder to write to.
    """
    rows = [
        (f"{name}, {model}", name, f"{metrics['ensemble']['miou']:.4f}")
        for name, models in benchmarks.items()
        for model, metrics in models.items()
    ]
    write_tsv(out / "benchmarks.tsv", ("result", "benchmark", "miou"), rows)


def write_class_plot(report: Path, first: str, last: str, out: Path) -> list[dict[str, str]]:
    """Write classes.tsv.

    Args:
        report: the folder of a benchmark's report, see `write_benchmark_report`.
        first: the column of its classes.tsv that is compared with.
        last: the column that is shown.
        out: the folder to write to.

    Returns:
        all rows of the benchmark's classes.tsv.

    Raises:
        OvsegError: a column is missing.
    """
    with (report / "classes.tsv").open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream, delimiter="\t")
        classes = list(reader)
    missing = [column for column in (first, last) if column not in (reader.fieldnames or ())]
    if missing:
        raise OvsegError(f"{report / 'classes.tsv'} has no column {missing[0]!r}; run the stage `evaluate` again")
    rows = [
        (row["class"], row[last], f"{float(row[last]) - float(row[first]):+.4f}")
        for row in classes
        if row[first] and row[last]
    ]
    write_tsv(out / "classes.tsv", ("class", "iou", "gain"), rows)
    return classes


def _write_histogram(path: Path, name: str, counts: NDArray[np.int64], edges: NDArray[np.float64]) -> None:
    middles = (edges[:-1] + edges[1:]) / 2
    write_tsv(path, (name, "pairs"), zip(middles.round(5).tolist(), counts.tolist(), strict=True))
