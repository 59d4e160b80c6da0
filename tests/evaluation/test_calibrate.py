"""Weight and mask threshold: the best of the grid is chosen, told, and read back; what is given is labelled so."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovseg.core.errors import OvsegError
from ovseg.datasets.benchmark import LABELS, read_benchmark
from ovseg.engine.runtime import Runtime
from ovseg.evaluation.calibrate import SAME, Choice, calibrate, labelled, read_choice
from ovseg.evaluation.confusion import confusion, totals
from ovseg.evaluation.metrics import metrics
from ovseg.segmentation.segmenter import Segmenter
from tests.conftest import Row, Toys
from tests.evaluation.conftest import IGNORE, NAMES, draw_benchmark

WEIGHTS, THRESHOLDS = [0.0, 0.5, 0.8, 1.0], [0.4, 0.6]


def run(benchmark: Path, toys: Toys, folder: Path, runtime: Runtime, **changes: Any) -> Path:
    """The folder of the report."""
    options: dict[str, Any] = {"weights": WEIGHTS, "thresholds": THRESHOLDS, "metric": "miou", "limit": None, **changes}
    clips = {"model": toys.clip}
    calibrate(benchmark, toys.network, clips, folder / "out", folder / "report", runtime, templates="single", **options)
    return folder / "report"


def grid(report: Path) -> list[Row]:
    with (report / "grid.tsv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


@pytest.mark.parametrize("metric", ["miou", "miou_gt"])
def test_the_best_of_the_grid_is_chosen_and_each_value_is_that_of_segmenting_so(
    drawn: Path, toys: Toys, tmp_path: Path, runtime: Runtime, metric: str
) -> None:
    report = run(drawn, toys, tmp_path, runtime, metric=metric, limit=3)
    rows = grid(report)
    assert [(float(row["weight"]), float(row["mask_threshold"])) for row in rows] == [
        (weight, threshold) for weight in WEIGHTS for threshold in THRESHOLDS
    ]
    benchmark, plain = read_benchmark(drawn), Segmenter.load(toys.network, toys.clip, templates="single")
    words = plain.vocabulary(NAMES)
    values = []
    for row in rows:
        assert row["model"] == "model"
        segmenter = replace(plain, weight=float(row["weight"]), mask_threshold=float(row["mask_threshold"]))
        found = []
        for item in range(3):
            pixels, labels = benchmark.read(item)
            guess = segmenter.segment_with(pixels, words).labels
            found.append(confusion(labels, guess, len(NAMES), IGNORE))
        values.append(metrics(totals([c for c, _ in found], [n for _, n in found], len(NAMES)))[metric])
    assert [float(row[metric]) for row in rows] == pytest.approx(values, abs=1e-6)
    assert len(set(values)) > 2
    best = rows[int(np.argmax(values))]
    chosen = json.loads((report / "choice.json").read_text())["model"]
    assert chosen == {
        "mask_threshold": float(best["mask_threshold"]),
        "weight": float(best["weight"]),
        "source": f"tune on {drawn}",
        metric: pytest.approx(max(values), abs=1e-6),
    }


def test_of_equals_the_first_of_the_grid_is_chosen(toys: Toys, tmp_path: Path, runtime: Runtime) -> None:
    """With one class every way is perfect."""
    folder = draw_benchmark(tmp_path / "drawn", 2, seen=None, names=["star"])
    report = run(folder, toys, tmp_path, runtime)
    assert {float(row["miou"]) for row in grid(report)} == {1.0}
    assert read_choice(report, "model", None, None) == Choice(0.4, 0.0, f"tune on {folder}")
    turned = run(folder, toys, tmp_path / "turned", runtime, weights=WEIGHTS[::-1], thresholds=THRESHOLDS[::-1])
    assert read_choice(turned, "model", None, None) == Choice(0.6, 1.0, f"tune on {folder}")


def test_each_model_has_its_own_choice(drawn: Path, toys: Toys, tmp_path: Path, runtime: Runtime) -> None:
    clips = {"one": toys.clip, "two": toys.clip}
    calibrate(
        drawn,
        toys.network,
        clips,
        tmp_path / "out",
        tmp_path / "report",
        runtime,
        weights=WEIGHTS,
        thresholds=THRESHOLDS,
        metric="miou",
        limit=2,
        templates="single",
    )
    assert [row["model"] for row in grid(tmp_path / "report")] == ["one"] * 8 + ["two"] * 8
    one, two = (read_choice(tmp_path / "report", name, None, None) for name in clips)
    assert one == two


@pytest.fixture
def report(tmp_path: Path) -> Path:
    row = {"mask_threshold": 0.35, "weight": 0.6, "source": "tune on val", "miou": 0.5}
    (tmp_path / "choice.json").write_text(json.dumps({"prompt": row}))
    return tmp_path


def test_what_was_chosen_is_read_back(report: Path) -> None:
    assert read_choice(report, "prompt", None, None) == Choice(0.35, 0.6, "tune on val")


def test_what_is_given_stands_in_its_place_and_is_labelled_so(report: Path) -> None:
    assert read_choice(report, "prompt", 0.4, None) == Choice(0.4, 0.6, "mask_threshold given, weight by tune on val")
    assert read_choice(report, "prompt", None, 0.0) == Choice(0.35, 0.0, "weight given, mask_threshold by tune on val")
    assert read_choice(report, "prompt", 0.4, 0.7) == Choice(0.4, 0.7, "given")
    assert read_choice(report / "gone", "prompt", 0.4, 0.7) == Choice(0.4, 0.7, "given")


def test_without_a_choice_the_stage_to_run_is_named(report: Path) -> None:
    for folder, model in ((report, "finetune"), (report / "gone", "prompt")):
        with pytest.raises(OvsegError, match=rf"choice\.json holds no choice for {model} .*run the stage `calibrate`"):
            read_choice(folder, model, None, None)
    for text in ("{", "[]", '{"prompt": {"weight": 1}}', '{"prompt": 3}'):
        (report / "choice.json").write_text(text)
        with pytest.raises(OvsegError, match="holds no choice for prompt"):
            read_choice(report, "prompt", 0.4, None)


def test_a_split_of_which_no_image_can_be_read_is_refused(toys: Toys, tmp_path: Path, runtime: Runtime) -> None:
    folder = draw_benchmark(tmp_path / "drawn", 2)
    for path in (folder.parent / "images").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(OvsegError, match=r"no image of .* can be read; see .*failures"):
        run(folder, toys, tmp_path, runtime)


def test_a_split_of_which_nothing_is_scored_is_refused(toys: Toys, tmp_path: Path, runtime: Runtime) -> None:
    folder = draw_benchmark(tmp_path / "drawn", 2)
    for path in (folder / LABELS).iterdir():
        Image.fromarray(np.full((48, 64), IGNORE, np.uint8)).save(path)
    with pytest.raises(OvsegError, match="no pixel"):
        run(folder, toys, tmp_path, runtime)


def test_a_choice_made_on_images_of_the_benchmark_itself_is_labelled_so(drawn: Path, tmp_path: Path) -> None:
    benchmark, by_tune = read_benchmark(drawn), Choice(0.4, 0.7, f"tune on {drawn}")
    assert labelled(by_tune, benchmark).source == by_tune.source + SAME
    elsewhere = shutil.copytree(drawn, tmp_path / "other" / "copy")
    about = json.loads((elsewhere / "benchmark.json").read_text())
    images = shutil.copytree(benchmark.images, tmp_path / "images")
    (elsewhere / "benchmark.json").write_text(json.dumps({**about, "images": str(images)}))
    for choice in (Choice(0.4, 0.7, f"tune on {elsewhere}"), Choice(0.4, 0.7, "given")):
        assert labelled(choice, benchmark) == choice
