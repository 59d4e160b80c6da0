"""The data of `dvc plots`."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from ovseg.core.errors import OvsegError
from ovseg.report.plots import (
    area_fractions,
    most_common_nouns,
    similarity_histogram,
    write_benchmark_plot,
    write_class_plot,
    write_distributions,
)
from ovseg.report.sampling import read_pairs
from tests.report.conftest import HEIGHT, PAIRS, WIDTH, MadeRun, pair, write_pairs


def read(path: Path) -> list[dict[str, str]]:
    """Rows of a TSV with a header."""
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def test_each_file_has_a_header_and_counts_every_pair_once(made: MadeRun, tmp_path: Path) -> None:
    run, out = made[0], tmp_path / "plots"
    write_distributions(run / "pairs", run / "index", out)
    nouns, similarity, area = (read(out / f"{name}.tsv") for name in ("nouns", "similarity", "area"))
    assert nouns[0] == {"noun": "cat", "pairs": "2"}
    assert sum(int(row["pairs"]) for row in nouns) == len(PAIRS)
    assert len(similarity) == 40
    assert sum(int(row["pairs"]) for row in similarity) == len(PAIRS) - 1  # one has no similarity
    middles = [float(row["similarity"]) for row in similarity]
    assert min(middles) == pytest.approx(0.12 + 0.19 / 80, abs=1e-4)
    assert max(middles) == pytest.approx(0.31 - 0.19 / 80, abs=1e-4)
    assert sum(int(row["pairs"]) for row in area) == len(PAIRS)
    log_fractions = [float(row["log10_area_fraction"]) for row in area if row["pairs"] != "0"]
    assert all(
        abs(10**x - fraction) < 0.1 for x, fraction in zip(log_fractions, (400 / 2400, 576 / 2400), strict=False)
    )


def test_an_area_fraction_is_relative_to_the_image_of_the_pair(made: MadeRun) -> None:
    fractions = area_fractions(read_pairs(made[0] / "pairs"), made[0] / "index")
    assert fractions.tolist() == pytest.approx([p["area"] / (WIDTH * HEIGHT) for p in PAIRS])


def test_the_thirty_most_common_nouns_are_listed_and_ties_are_ordered_by_name(made: MadeRun, tmp_path: Path) -> None:
    rows = [{**pair(i, 3, "bus", 0, 0.2), "noun": f"noun {i % 40:02d}"} for i in range(85)]
    write_pairs(tmp_path / "pairs", rows)
    write_distributions(tmp_path / "pairs", made[0] / "index", tmp_path)
    nouns = [row["noun"] for row in read(tmp_path / "nouns.tsv")]
    assert nouns == [f"noun {i:02d}" for i in range(30)]
    assert most_common_nouns(read_pairs(tmp_path / "pairs"), 1) == [("noun 00", 3)]


def test_a_noun_with_a_tab_or_quote_survives(made: MadeRun, tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs", [{**PAIRS[0], "noun": 'a\t"b"'}])
    write_distributions(tmp_path / "pairs", made[0] / "index", tmp_path)
    assert read(tmp_path / "nouns.tsv") == [{"noun": 'a\t"b"', "pairs": "1"}]


def test_pairs_without_similarity_give_an_empty_histogram_not_an_error() -> None:
    counts, edges = similarity_histogram(np.full(5, np.nan))
    assert counts.sum() == 0
    assert len(counts) == 40
    assert (edges[0], edges[-1]) == (0, 1)


def test_a_mask_smaller_than_the_first_bin_is_counted_in_it(made: MadeRun, tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs", [{**PAIRS[0], "area": 0}])
    write_distributions(tmp_path / "pairs", made[0] / "index", tmp_path)
    assert read(tmp_path / "area.tsv")[0]["pairs"] == "1"


def test_the_benchmark_plot_has_the_ensemble_of_each_model_on_each_benchmark(tmp_path: Path) -> None:
    models = {"base": {"ensemble": {"miou": 0.25}}, "prompt": {"ensemble": {"miou": 0.5}}}
    write_benchmark_plot({"voc": models}, tmp_path)
    assert [(row["benchmark"], row["miou"]) for row in read(tmp_path / "benchmarks.tsv")] == [
        ("voc", "0.2500"),
        ("voc", "0.5000"),
    ]


def test_the_class_plot_has_the_gain_of_each_class_with_both_values(tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    lines = ["class\ta/ensemble\tb/ensemble", "cat\t0.2000\t0.5000", "dog\t\t0.1000"]
    (tmp_path / "report" / "classes.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    classes = write_class_plot(tmp_path / "report", "a/ensemble", "b/ensemble", tmp_path)
    assert [row["class"] for row in classes] == ["cat", "dog"]
    assert read(tmp_path / "classes.tsv") == [{"class": "cat", "iou": "0.5000", "gain": "+0.3000"}]
    with pytest.raises(OvsegError, match="c/ensemble"):
        write_class_plot(tmp_path / "report", "a/ensemble", "c/ensemble", tmp_path)
