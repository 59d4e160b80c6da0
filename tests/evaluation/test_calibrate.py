"""Weight and mask threshold: the best of the grid is chosen, written and read back; given values are labeled as given."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovseg.core.errors import OvsegError
from ovseg.core.options import CalibrateOptions, CropOptions, SegmentOptions
from ovseg.datasets.benchmark import LABELS, read_benchmark
from ovseg.engine.runtime import Runtime
from ovseg.evaluation.calibrate import (
    SAME_IMAGES,
    Calibrated,
    Choice,
    calibrate,
    find_calibrated,
    label_same_images,
    read_choice,
    read_thresholds,
)
from ovseg.evaluation.confusion import class_totals, confusion
from ovseg.evaluation.metrics import segmentation_metrics
from ovseg.segmentation.segmenter import Segmenter
from tests.conftest import Row, Toys
from tests.evaluation.conftest import IGNORE, NAMES, draw_benchmark

WEIGHTS, THRESHOLDS = [0.0, 0.5, 0.8, 1.0], [0.4, 0.6]
SEGMENT = SegmentOptions(templates="single")


def run(
    split: Path, toys: Toys, folder: Path, runtime: Runtime, models: Sequence[str] = ("model",), **changes: Any
) -> Path:
    """Calibrate and return the folder of the report."""
    calibration = CalibrateOptions(benchmark=split, **{"weights": WEIGHTS, "thresholds": THRESHOLDS, **changes})
    clips = dict.fromkeys(models, toys.clip)
    out, report = folder / "out", folder / "report"
    calibrate(toys.network, clips, out, report, runtime, calibration, options=SEGMENT, crop=CropOptions())
    return report


def grid(report: Path) -> list[Row]:
    with (report / "grid.tsv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


@pytest.mark.parametrize("metric", ["miou", "miou_gt"])
def test_the_best_of_the_grid_is_chosen_and_each_value_is_that_of_segmenting_with_it(
    drawn: Path, toys: Toys, tmp_path: Path, runtime: Runtime, metric: str
) -> None:
    report = run(drawn, toys, tmp_path, runtime, metric=metric, limit=3)
    rows = grid(report)
    assert [(float(row["weight"]), float(row["mask_threshold"])) for row in rows] == [
        (weight, threshold) for weight in WEIGHTS for threshold in THRESHOLDS
    ]
    benchmark, plain = read_benchmark(drawn), Segmenter.load(toys.network, toys.clip, options=SEGMENT)
    vocabulary = plain.vocabulary(NAMES)
    values = []
    for row in rows:
        assert row["model"] == "model"
        segmenter = replace(plain, weight=float(row["weight"]), mask_threshold=float(row["mask_threshold"]))
        counts = []
        for item in range(3):
            pixels, gt = benchmark.read(item)
            pred = segmenter.segment_with(pixels, vocabulary).labels
            counts.append(confusion(gt, pred, len(NAMES), IGNORE))
        totals = class_totals([index for index, _ in counts], [pixels for _, pixels in counts], len(NAMES))
        values.append(segmentation_metrics(totals)[metric])
    assert [float(row[metric]) for row in rows] == pytest.approx(values, abs=1e-6)
    assert len(set(values)) > 2
    best = rows[int(np.argmax(values))]
    chosen = json.loads((report / "choice.json").read_text())["model"]
    assert chosen == {
        "mask_threshold": float(best["mask_threshold"]),
        "weight": float(best["weight"]),
        "source": f"calibrate on {drawn}",
        metric: pytest.approx(max(values), abs=1e-6),
    }


def test_of_equals_the_first_of_the_grid_is_chosen(toys: Toys, tmp_path: Path, runtime: Runtime) -> None:
    """With one class every setting is perfect."""
    folder = draw_benchmark(tmp_path / "drawn", 2, seen=None, names=["star"])
    report = run(folder, toys, tmp_path, runtime)
    assert {float(row["miou"]) for row in grid(report)} == {1.0}
    assert read_choice(report, "model", None, None) == Choice(0.4, 0.0, f"calibrate on {folder}")
    reversed_ = run(folder, toys, tmp_path / "reversed", runtime, weights=WEIGHTS[::-1], thresholds=THRESHOLDS[::-1])
    assert read_choice(reversed_, "model", None, None) == Choice(0.6, 1.0, f"calibrate on {folder}")


def test_each_model_has_its_own_choice(drawn: Path, toys: Toys, tmp_path: Path, runtime: Runtime) -> None:
    """One of two names of the same CLIP is found by the name of the folder, or else the first."""
    report = run(drawn, toys, tmp_path, runtime, models=("first", "second"), limit=2)
    for name, found in (("second", "second"), ("elsewhere", "first")):
        copy = Path(shutil.copytree(toys.clip, tmp_path / name))
        assert find_calibrated(report, toys.network, copy) == Calibrated(found, SEGMENT, CropOptions())
    assert [row["model"] for row in grid(report)] == ["first"] * 8 + ["second"] * 8
    first, second = (read_choice(report, name, None, None) for name in ("first", "second"))
    assert first == second


@pytest.fixture
def report(tmp_path: Path) -> Path:
    row = {"mask_threshold": 0.35, "weight": 0.6, "source": "calibrate on val", "miou": 0.5}
    (tmp_path / "choice.json").write_text(json.dumps({"prompt": row}))
    return tmp_path


def test_a_choice_is_read_back(report: Path) -> None:
    assert read_choice(report, "prompt", None, None) == Choice(0.35, 0.6, "calibrate on val")


def test_given_values_take_precedence_and_are_labeled_as_given(report: Path) -> None:
    assert read_choice(report, "prompt", 0.4, None) == Choice(
        0.4, 0.6, "mask_threshold given, weight by calibrate on val"
    )
    assert read_choice(report, "prompt", None, 0.0) == Choice(
        0.35, 0.0, "weight given, mask_threshold by calibrate on val"
    )
    assert read_choice(report, "prompt", 0.4, 0.7) == Choice(0.4, 0.7, "given")
    assert read_choice(report / "gone", "prompt", 0.4, 0.7) == Choice(0.4, 0.7, "given")


def test_without_a_choice_the_error_names_the_stage_to_run(report: Path) -> None:
    for folder, model in ((report, "finetune"), (report / "gone", "prompt")):
        with pytest.raises(OvsegError, match=rf"choice\.json.* {model} .*`calibrate`"):
            read_choice(folder, model, None, None)
    for text in ("{", "[]", '{"prompt": {"weight": 1}}', '{"prompt": 3}'):
        (report / "choice.json").write_text(text)
        with pytest.raises(OvsegError, match=r"choice\.json.* prompt "):
            read_choice(report, "prompt", 0.4, None)


def test_the_thresholds_alone_are_read_back_or_the_stage_to_run_is_named(
    drawn: Path, toys: Toys, tmp_path: Path, runtime: Runtime
) -> None:
    written = run(drawn, toys, tmp_path, runtime, models=("first", "second"), limit=2)
    chosen = json.loads((written / "choice.json").read_text())
    assert read_thresholds(written, ["second", "first"]) == {
        model: chosen[model]["mask_threshold"] for model in ("first", "second")
    }
    for folder, models in ((written, ["third"]), (tmp_path / "gone", ["first"])):
        with pytest.raises(OvsegError, match="run the stage `calibrate`"):
            read_thresholds(folder, models)


def test_models_are_found_by_their_content_with_the_options_they_segmented_with(
    drawn: Path, toys: Toys, tmp_path: Path, runtime: Runtime
) -> None:
    options, crop = SegmentOptions(templates="single", synonyms="joined"), CropOptions(antialias=False)
    calibration = CalibrateOptions(benchmark=drawn, weights=[0.5], thresholds=[0.5], limit=1)
    report, clips = tmp_path / "report", {"model": toys.clip}
    calibrate(toys.network, clips, tmp_path / "out", report, runtime, calibration, options=options, crop=crop)
    copy = Path(shutil.copytree(toys.clip, tmp_path / "copy"))
    assert find_calibrated(report, toys.network, copy) == Calibrated("model", options, crop)
    network = Path(shutil.copytree(toys.network, tmp_path / "network"))
    assert find_calibrated(report, network, copy) is not None
    (network / "note.txt").write_text("another network")
    assert find_calibrated(report, network, copy) is None
    other = Path(shutil.copytree(toys.clip, tmp_path / "other" / "model"))
    (other / "note.txt").write_text("another CLIP of the same name")
    assert find_calibrated(report, toys.network, other) is None
    assert find_calibrated(report, toys.network, tmp_path / "gone") is None
    (report / "inputs.json").write_text('{"network": "x"')
    with pytest.raises(OvsegError, match=r"inputs\.json"):
        find_calibrated(report, toys.network, copy)


def test_in_a_report_of_an_older_version_the_name_of_the_folder_counts(report: Path, toys: Toys) -> None:
    clip = Path(shutil.copytree(toys.clip, report / "prompt"))
    assert find_calibrated(report, toys.network, clip) == Calibrated("prompt", SegmentOptions(), CropOptions())
    assert find_calibrated(report, toys.network, toys.clip) is None


@pytest.mark.parametrize("text", ["[]", "{}", '"x"'])
def test_inputs_of_another_kind_are_an_error_that_names_the_stage_to_run(report: Path, toys: Toys, text: str) -> None:
    (report / "inputs.json").write_text(text)
    with pytest.raises(OvsegError, match=r"inputs\.json.*calibrate.*run the stage again"):
        find_calibrated(report, toys.network, toys.clip)


def test_options_of_another_version_are_an_error_that_names_them(
    drawn: Path, toys: Toys, tmp_path: Path, runtime: Runtime
) -> None:
    report = run(drawn, toys, tmp_path, runtime, limit=1, weights=[0.5], thresholds=[0.5])
    inputs = json.loads((report / "inputs.json").read_text())
    (report / "inputs.json").write_text(json.dumps({**inputs, "crop": {"fill": "green"}}))
    with pytest.raises(OvsegError, match=r"inputs\.json.*fill.*run the stage again"):
        find_calibrated(report, toys.network, toys.clip)


def test_a_split_without_a_readable_image_is_an_error(toys: Toys, tmp_path: Path, runtime: Runtime) -> None:
    folder = draw_benchmark(tmp_path / "drawn", 2)
    for path in (folder.parent / "images").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(OvsegError, match=r"2 .*not_an_image.*0\.png"):
        run(folder, toys, tmp_path, runtime)


def test_a_split_without_a_scored_pixel_is_an_error(toys: Toys, tmp_path: Path, runtime: Runtime) -> None:
    folder = draw_benchmark(tmp_path / "drawn", 2)
    for path in (folder / LABELS).iterdir():
        Image.fromarray(np.full((48, 64), IGNORE, np.uint8)).save(path)
    with pytest.raises(OvsegError, match=f"{folder} .*{IGNORE}"):
        run(folder, toys, tmp_path, runtime)


def test_a_choice_made_on_images_of_the_benchmark_itself_is_labeled(drawn: Path, tmp_path: Path) -> None:
    benchmark, choice = read_benchmark(drawn), Choice(0.4, 0.7, f"calibrate on {drawn}")
    assert label_same_images(choice, benchmark).source == choice.source + SAME_IMAGES
    elsewhere = shutil.copytree(drawn, tmp_path / "other" / "copy")
    metadata = json.loads((elsewhere / "benchmark.json").read_text())
    images = shutil.copytree(benchmark.images, tmp_path / "images")
    (elsewhere / "benchmark.json").write_text(json.dumps({**metadata, "images": str(images)}))
    for choice in (Choice(0.4, 0.7, f"calibrate on {elsewhere}"), Choice(0.4, 0.7, "given")):
        assert label_same_images(choice, benchmark) == choice
