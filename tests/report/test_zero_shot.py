"""The overlap of a benchmark's names with annotated masks and mined pairs, and the mIoU of each group of classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovseg.core import tables
from ovseg.core.errors import OvsegError
from ovseg.datasets.benchmark import write_benchmark
from ovseg.evaluation.confusion import confusion
from ovseg.report.zero_shot import measure_zero_shot, zero_shot_section
from tests.report.conftest import MadeRun
from tests.report.test_plots import read

NAMES = [["Cat", "kitten"], ["wall"], ["sea", "ocean"], ["bicycle", "bus"], ["moon"]]
GT = np.array([[0, 0, 1, 1], [2, 2, 3, 255]], np.uint8)
PREDICTIONS = {"base": np.array([[4, 0, 1, 1], [2, 2, 3, 3]]), "prompt": np.array([[0, 0, 1, 0], [2, 1, 2, 3]])}


@pytest.fixture
def evaluated(made: MadeRun, tmp_path: Path) -> Path:
    """Folder of a benchmark, of its segmentations, and of a network that was trained on "ocean", beside the made-up run."""
    Image.new("RGB", (4, 2)).save(tmp_path / "1.png")
    items = [("1.png", "1.png", GT)]
    write_benchmark(
        tmp_path / "benchmarks" / "kitchen", tmp_path, NAMES, 255, items, seen=None, source="our kitchen, 2026"
    )
    rows = []
    for model, pred in PREDICTIONS.items():
        index, pixels = confusion(GT, pred, len(NAMES), 255)
        row = {"item": 0, "model": model, "threshold": 0.4, "classifier": "ensemble"}
        rows.append({**row, "confusion_index": index, "pixels": pixels, "gt_classes": None, "pred_classes": None})
    (tmp_path / "evaluate" / "kitchen").mkdir(parents=True)
    tables.write_part(tmp_path / "evaluate" / "kitchen" / "00000.parquet", "segmentations", rows, "f")
    (tmp_path / "proposals").mkdir()
    (tmp_path / "proposals" / "proposal_network.json").write_text(json.dumps({"names": ["Ocean", "tree"]}))
    return tmp_path


def measure(evaluated: Path, run: Path, model: str = "prompt") -> dict[str, Any]:
    names, folder = ["kitchen"], evaluated / "benchmarks"
    return measure_zero_shot(
        run / "pairs", evaluated / "proposals", folder, evaluated / "evaluate", names, model, evaluated / "plots"
    )


def test_classes_are_counted_and_scored_by_their_overlap_with_the_training_data(made: MadeRun, evaluated: Path) -> None:
    """The pairs have bus, two cats, a mat and a dog; the wall is an annotated pair."""
    assert measure(evaluated, made[0]) == {
        "annotated_names": 3,
        "mined_nouns": 4,
        "model": "prompt",
        "benchmarks": {
            "kitchen": {
                "classes": 5,
                "annotated": 2,
                "mined": 2,
                "mined_only": 2,
                "neither": 1,
                "pairs": 3,
                "miou_annotated": round((1 / 3 + 1 / 3) / 2, 6),
                "miou_mined_only": round((2 / 3 + 0) / 2, 6),
                "source": "our kitchen, 2026",
            }
        },
    }
    other = measure(evaluated, made[0], "base")["benchmarks"]
    assert other["kitchen"]["miou_neither"] == 0  # the moon is only predicted


def test_every_class_has_a_row_with_the_names_that_overlap(made: MadeRun, evaluated: Path) -> None:
    measure(evaluated, made[0])
    rows = read(evaluated / "plots" / "overlap.tsv")
    assert [tuple(row.values()) for row in rows] == [
        ("kitchen", "Cat", "mined_only", "", "cat", "2", "0.6667"),
        ("kitchen", "wall", "annotated", "wall", "", "0", "0.3333"),
        ("kitchen", "sea", "annotated", "ocean", "", "0", "0.3333"),
        ("kitchen", "bicycle", "mined_only", "", "bus", "1", "0.0000"),
        ("kitchen", "moon", "neither", "", "", "0", ""),
    ]


def test_the_table_has_a_row_for_each_benchmark_with_the_source_of_its_names(made: MadeRun, evaluated: Path) -> None:
    title, text, cells = zero_shot_section(measure(evaluated, made[0]))
    assert title == "Zero-shot?" and "mIoU of prompt" in text
    assert cells[1:] == [["kitchen", "5", "2", "2", "2", "1", "3", "33.3", "33.3", "", "our kitchen, 2026"]]
    assert len(cells[0]) == len(cells[1])


@pytest.mark.parametrize("content", [None, "{}", "[]", "{"])
def test_the_error_about_a_network_without_names_names_its_file(
    content: str | None, made: MadeRun, evaluated: Path
) -> None:
    metadata = evaluated / "proposals" / "proposal_network.json"
    metadata.unlink()
    if content is not None:
        metadata.write_text(content)
    with pytest.raises(OvsegError, match=r"proposal_network\.json"):
        measure(evaluated, made[0])
