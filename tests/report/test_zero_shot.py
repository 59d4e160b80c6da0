"""The section "Zero-shot?": names of annotated masks, of mined pairs and of a benchmark, and mIoU of each group of classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg.core import tables
from ovseg.core.errors import OvsegError
from ovseg.datasets.benchmark import write_benchmark
from ovseg.evaluation.confusion import confusion
from ovseg.report.zero_shot import section, zero_shot
from tests.report.conftest import Made
from tests.report.test_plots import read

NAMES = [["Cat", "kitten"], ["wall"], ["sea", "ocean"], ["bicycle", "bus"], ["moon"]]
TRUTH = np.array([[0, 0, 1, 1], [2, 2, 3, 255]], np.uint8)
GUESS = {"base": np.array([[4, 0, 1, 1], [2, 2, 3, 3]]), "prompt": np.array([[0, 0, 1, 0], [2, 1, 2, 3]])}


@pytest.fixture
def evaluated(made: Made, tmp_path: Path) -> Path:
    """Folder of a benchmark, of its segmentations, and of a network that was trained on "ocean", beside the made-up run."""
    Image.new("RGB", (4, 2)).save(tmp_path / "1.png")
    items = [("1.png", "1.png", TRUTH)]
    write_benchmark(
        tmp_path / "benchmarks" / "mine", tmp_path, NAMES, 255, items, seen=None, source="our kitchen, 2026"
    )
    rows = []
    for model, guess in GUESS.items():
        cells, pixels = confusion(TRUTH, guess, len(NAMES), 255)
        row = {"item": 0, "model": model, "threshold": 0.4, "cells": cells, "pixels": pixels, "labels": None}
        rows.append({**row, "classifier": "ensemble", "guesses": None})
    (tmp_path / "evaluate" / "mine").mkdir(parents=True)
    tables.write_part(tmp_path / "evaluate" / "mine" / "00000.parquet", "segmentations", rows, "f")
    (tmp_path / "proposals").mkdir()
    (tmp_path / "proposals" / "proposal_network.json").write_text(json.dumps({"names": ["Ocean", "tree"]}))
    return tmp_path


def found(evaluated: Path, run: Path, model: str = "prompt") -> dict[str, object]:
    names, folder = ["mine"], evaluated / "benchmarks"
    return zero_shot(
        run / "pairs", evaluated / "proposals", folder, evaluated / "evaluate", names, model, evaluated / "plots"
    )


def test_classes_are_counted_and_scored_by_what_training_has_seen_of_them(made: Made, evaluated: Path) -> None:
    """The pairs have bus, two cats, a mat and a dog; that of the wall is copied from an annotated mask."""
    assert found(evaluated, made[0]) == {
        "annotated_names": 3,
        "mined_nouns": 4,
        "model": "prompt",
        "benchmarks": {
            "mine": {
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
    other = found(evaluated, made[0], "base")["benchmarks"]
    assert isinstance(other, dict) and other["mine"]["miou_neither"] == 0  # the moon is guessed, and not there


def test_every_class_has_a_row_that_says_which_of_its_names_were_seen(made: Made, evaluated: Path) -> None:
    found(evaluated, made[0])
    rows = read(evaluated / "plots" / "overlap.tsv")
    assert [tuple(row.values()) for row in rows] == [
        ("mine", "Cat", "mined_only", "", "cat", "2", "0.6667"),
        ("mine", "wall", "annotated", "wall", "", "0", "0.3333"),
        ("mine", "sea", "annotated", "ocean", "", "0", "0.3333"),
        ("mine", "bicycle", "mined_only", "", "bus", "1", "0.0000"),
        ("mine", "moon", "neither", "", "", "0", ""),
    ]


def test_the_section_has_a_row_for_each_benchmark_with_the_source_of_its_names(made: Made, evaluated: Path) -> None:
    title, sentence, cells = section(found(evaluated, made[0]))
    assert title == "Zero-shot?" and "mIoU of prompt, ensemble" in sentence and "letter by letter" in sentence
    assert cells[1:] == [["mine", "5", "2", "2", "2", "1", "3", "33.3", "33.3", "", "our kitchen, 2026"]]
    assert len(cells[0]) == len(cells[1])


@pytest.mark.parametrize("content", [None, "{}", "[]", "{"])
def test_a_network_that_does_not_know_its_names_is_named(content: str | None, made: Made, evaluated: Path) -> None:
    about = evaluated / "proposals" / "proposal_network.json"
    about.unlink()
    if content is not None:
        about.write_text(content)
    with pytest.raises(OvsegError, match=r"segmenter\.json does not say which names it was trained on"):
        found(evaluated, made[0])
