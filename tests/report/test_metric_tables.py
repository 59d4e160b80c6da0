"""The metrics of a run as tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ovseg.evaluation.benchmark_metrics import CLASSIFIERS
from ovseg.report.metric_tables import Section, benchmark_sections, markdown, write_tables

METRICS = {"miou": 0.5, "miou_gt": 0.6, "miou_interval": [0.4, 0.6]}


def metrics(source: str = "given") -> dict[str, Any]:
    choice = {"mask_threshold": 0.5, "weight": 0.7, "source": source}
    return {"ade150": {"base": {**dict.fromkeys(CLASSIFIERS, METRICS), "mask_accuracy": 0.7, "choice": choice}}}


def test_markdown_has_a_header_a_rule_and_the_rows() -> None:
    assert markdown([["a", "b"], ["c", "1"]]) == "| a | b |\n| --- | ---: |\n| c | 1 |"


def test_the_overview_has_the_ensemble_of_every_model_with_its_interval() -> None:
    overview = benchmark_sections(metrics())[0]
    assert overview.cells == [["model", "ade150"], ["base", "50.0 (40.0 to 60.0)"]]


def test_each_benchmark_has_a_table_with_a_row_for_each_model_and_classifier() -> None:
    sections = benchmark_sections(metrics())
    assert [section.title for section in sections[1:]] == ["Benchmark ade150"]
    header, *rows = sections[1].cells
    assert header == ["model", "classifier", "miou", "miou_gt", "mask_accuracy"]
    assert [row[1] for row in rows] == list(CLASSIFIERS)
    assert [row[-1] for row in rows if row[1] == "oracle_masks"] == ["70.0"]


def test_weight_and_threshold_are_stated_with_their_source_and_by_benchmark_where_they_differ() -> None:
    given = "Weight of CLIP in the ensemble, and mask threshold: base 0.7 and 0.5 (given)."
    assert all(section.text.endswith(given) for section in benchmark_sections(metrics()))
    same = "calibrate on voc (THE SAME IMAGES, not held out)"
    overview, first, second = benchmark_sections(metrics() | {"voc": metrics(same)["ade150"]})
    labeled = given.replace("given", same)
    assert first.text.endswith(given) and second.text.endswith(labeled)
    assert overview.text.endswith(f"On ade150: {given} On voc: {labeled}")


def test_all_tables_are_written(tmp_path: Path) -> None:
    write_tables(tmp_path / "tables.md", [Section("First", "text", [["a"], ["b"]]), Section("Second", "text", [["c"]])])
    text = (tmp_path / "tables.md").read_text(encoding="utf-8")
    assert text.index("## First") < text.index("| b |") < text.index("## Second") < text.index("| c |")
