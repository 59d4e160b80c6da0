"""`ovseg segment` as a user runs it: what is written and printed, and that it is what the benchmark scores."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovseg.cli import app as cli
from ovseg.cli.entry import exit_code
from ovseg.cli.segment import read_names
from ovseg.clip.region_settings import REGION_ENCODER
from ovseg.core import tables
from ovseg.core.errors import OvsegError
from ovseg.core.images import decode_labels
from ovseg.core.options import CalibrateOptions, CropOptions, SegmentOptions
from ovseg.datasets.benchmark import read_benchmark
from ovseg.engine.runtime import Runtime
from ovseg.evaluation.calibrate import calibrate
from ovseg.evaluation.confusion import confusion
from ovseg.evaluation.evaluate import evaluate
from ovseg.evaluation.settings import three_classifiers
from ovseg.segmentation.segmenter import Segmenter
from tests.conftest import ROOT, Toys
from tests.evaluation.conftest import IGNORE, draw_benchmark
from tests.toys import WORDS, noise

NAMES = WORDS[:6]
Call = Callable[..., tuple[int, str]]


@pytest.fixture
def call(
    toys: Toys,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Call:
    """The command in this process, which has torch already: exit code, and all that it printed."""

    def called(*arguments: str | Path, **changes: str | Path) -> tuple[int, str]:
        options = {
            "names": ",".join(NAMES),
            "out": tmp_path / "out",
            "clip": toys.clip,
            "network": toys.network,
            "device": "cpu",
            **changes,
        }
        flat = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
        monkeypatch.setattr(sys, "argv", ["ovseg", "segment", *map(str, arguments), *flat])
        monkeypatch.setenv("COLUMNS", "200")
        caplog.set_level("INFO")
        caplog.clear()
        code = exit_code(cli.app)
        output = capsys.readouterr()
        return code, output.out + output.err + caplog.text

    return called


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """A folder of three images."""
    (tmp_path / "in").mkdir()
    for i, name in enumerate("abc"):
        Image.fromarray(noise(i)).save(tmp_path / "in" / f"{name}.png")
    return tmp_path / "in"


def labels_in(out: Path, name: str) -> np.ndarray:
    return decode_labels((out / f"{name}.labels.png").read_bytes())


def test_every_image_gets_an_overlay_a_label_map_and_a_json(
    call: Call, drawn: Path, toys: Toys, tmp_path: Path
) -> None:
    code, output = call(drawn)
    assert code == 0 and str(tmp_path / "out") in output
    assert "mask threshold 0.4, weight of CLIP 0.7 (default, the paper's)" in output
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == [f"{name}.{end}" for name in "abc" for end in ("json", "labels.png", "overlay.png")]
    segmenter = Segmenter.load(toys.network, toys.clip)
    for i, name in enumerate("abc"):
        assert np.array_equal(labels_in(tmp_path / "out", name), segmenter.segment(noise(i), NAMES).labels)
        record = json.loads((tmp_path / "out" / f"{name}.json").read_text())
        assert record["names"] == list(NAMES)
        assert (record["settings"]["weight"], record["settings"]["mask_threshold"]) == (0.7, 0.4)


def test_it_runs_as_a_command_of_its_own(drawn: Path, toys: Toys, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "ovseg.cli.app",
        "segment",
        str(drawn / "a.png"),
        "--names",
        "star, key",
        "--clip",
        str(toys.clip),
        "--network",
        str(toys.network),
        "--out",
        str(tmp_path / "out"),
        "--device",
        "cpu",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "pipeline"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "a.json" in {path.name for path in (tmp_path / "out").iterdir()}


def test_a_broken_image_is_named_and_counted_and_the_others_are_written(
    call: Call, drawn: Path, tmp_path: Path
) -> None:
    (drawn / "b.png").write_bytes(b"no image")
    code, output = call(drawn)
    assert code == 1 and "Traceback" not in output
    assert f"{drawn / 'b.png'} is left out: not_an_image" in output
    assert "1 of 3 images could not be read" in output
    assert {path.name.split(".")[0] for path in (tmp_path / "out").iterdir()} == {"a", "c"}


def test_running_again_says_what_was_done_before_and_does_what_differs(call: Call, drawn: Path, tmp_path: Path) -> None:
    assert call(drawn)[0] == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    code, output = call(drawn)
    assert code == 0 and "3 done before" in output
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    code, _ = call(drawn, weight="0.2")
    assert code == 0 and all(path.stat().st_mtime_ns > time for path, time in before.items())


def test_two_images_of_one_name_are_refused(call: Call, drawn: Path, tmp_path: Path) -> None:
    shutil.copy(drawn / "a.png", drawn / "a.jpg")
    code, output = call(drawn)
    assert code == 1 and "Error: " in output and "would both be written as a.*" in output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"names": ""}, "--names"),
        ({"names": "cat,,dog"}, "2 of 3"),
        ({"names": "cat, dog, Cat"}, ": cat;"),
        ({"clip": "gone"}, "gone"),
        ({"network": "gone"}, "gone is not a proposal network"),
    ],
)
def test_what_cannot_be_used_is_an_error_in_one_line(
    call: Call, drawn: Path, changes: dict[str, str], wanted: str
) -> None:
    code, output = call(drawn, **changes)
    (line,) = [line for line in output.splitlines() if line.startswith("Error: ")]
    assert code == 1 and wanted in line and "Traceback" not in output


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (
            {"encoder": "pooled"},
            "VisionTransformer is no ConvNeXt, whose last map is averaged over masks; use region_tokens",
        ),
        (
            {"encoder": "region_tokens", "start_block": 1},
            "start_block=1: the image tower has 1 blocks, so it must be 0 to 0",
        ),
        ({"encoder": "region_tokens", "image_size": 50}, "take a size that is a multiple of the patch size"),
        (
            {"encoder": "biased_tokens", "log_bias": [[1, 2, 3]]},
            "take the start_block and the tower that it was trained with",
        ),
        (
            {"encoder": "region_tokens", "templates": "single", "template_weights": [1.0]},
            "template_weights for the templates single, not vild; set --templates, or "
            "segment.templates, heldout.templates and score.templates, to single",
        ),
    ],
)
def test_a_region_encoder_that_does_not_belong_to_the_folder_is_named_with_what_to_do(
    call: Call, drawn: Path, toys: Toys, tmp_path: Path, settings: dict[str, Any], wanted: str
) -> None:
    clip = Path(shutil.copytree(toys.clip, tmp_path / "clip"))
    (clip / REGION_ENCODER).write_text(json.dumps(settings))
    code, output = call(drawn, clip=clip)
    (line,) = [line for line in output.splitlines() if line.startswith("Error: ")]
    assert code == 1 and REGION_ENCODER in line and wanted in line and "Traceback" not in output


def test_an_image_that_does_not_exist_is_an_error(call: Call, tmp_path: Path) -> None:
    code, output = call(tmp_path / "gone.png")
    assert code == 1 and f"Error: {tmp_path / 'gone.png'} does not exist" in output


def test_a_clip_of_another_text_tower_is_refused_with_what_to_do(call: Call, drawn: Path, tiny_clip: Path) -> None:
    code, output = call(drawn, clip=tiny_clip)
    assert code == 1 and "another text tower" in output and "the CLIP that it was trained with" in output


def test_an_output_that_is_a_file_is_an_error(call: Call, drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    code, output = call(drawn)
    assert code == 1 and "Error: " in output and (tmp_path / "out").read_text() == "mine"


def test_one_name_alone_gets_others_unless_it_is_not_wanted(call: Call, drawn: Path, tmp_path: Path) -> None:
    for flags, names in (((), ["star", "others"]), (("--no-others",), ["star"])):
        assert call(drawn / "a.png", *flags, names="star")[0] == 0
        assert json.loads((tmp_path / "out" / "a.json").read_text())["names"] == names
    assert call(drawn / "a.png", "--others", names="star,key")[0] == 0
    assert json.loads((tmp_path / "out" / "a.json").read_text())["names"] == ["star", "key", "others"]


def test_calibrated_values_are_used_unless_others_are_given(
    call: Call, drawn: Path, toys: Toys, tmp_path: Path
) -> None:
    clip = Path(shutil.copytree(toys.clip, tmp_path / "models" / "prompt"))
    (tmp_path / "reports" / "calibrate").mkdir(parents=True)
    row = {"mask_threshold": 0.35, "weight": 0.6, "source": "calibrate on val", "miou": 0.5}
    (tmp_path / "reports" / "calibrate" / "choice.json").write_text(json.dumps({"prompt": row}))
    for changes, wanted in (
        ({}, "mask threshold 0.35, weight of CLIP 0.6 (calibrate on val)"),
        (
            {"weight": "0.1"},
            "mask threshold 0.35, weight of CLIP 0.1 (weight given, mask_threshold by calibrate on val)",
        ),
        ({"weight": "0.1", "mask_threshold": "0.5"}, "mask threshold 0.5, weight of CLIP 0.1 (given)"),
    ):
        assert wanted in call(drawn / "a.png", clip=clip, **changes)[1]
    for changes, wanted in (  # no choice for the toy
        ({"weight": "0.1"}, "0.4, weight of CLIP 0.1 (weight given, mask_threshold by default, the paper's)"),
        ({"mask_threshold": "0.5"}, "0.5, weight of CLIP 0.7 (mask_threshold given, weight by default, the paper's)"),
    ):
        assert wanted in call(drawn / "a.png", **changes)[1]


def test_images_are_segmented_as_they_were_when_it_was_calibrated(
    call: Call, drawn: Path, toys: Toys, tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the crop recipe and options of `calibrate`, whatever the path of the same CLIP; flags take precedence."""
    clip = Path(shutil.copytree(toys.clip, tmp_path / "models" / "prompt"))
    options, crop = SegmentOptions(templates="single", synonyms="joined"), CropOptions(antialias=False, fill="zero")
    report = tmp_path / "reports" / "calibrate"
    split = draw_benchmark(tmp_path / "set", 2)
    calibration = CalibrateOptions(benchmark=split, weights=[0.6], thresholds=[0.45])
    models = {"prompt": clip}
    calibrate(toys.network, models, tmp_path / "table", report, runtime, calibration, options=options, crop=crop)
    expected = Segmenter.load(toys.network, clip, mask_threshold=0.45, weight=0.6, options=options, crop=crop)
    monkeypatch.chdir(tmp_path / "models")
    for changes, wanted in (({}, crop), ({"fill": "mean"}, CropOptions(antialias=False, fill="mean"))):
        code, output = call(drawn / "a.png", clip="prompt", **changes)
        assert code == 0 and f"weight of CLIP 0.6 (calibrate on {split})" in output
        settings = json.loads((tmp_path / "out" / "a.json").read_text())["settings"]
        assert (settings["antialias"], settings["fill"], settings["synonyms"]) == (False, wanted.fill, "joined")
        labels = replace(expected, crop=wanted).segment(noise(0), NAMES).labels
        assert np.array_equal(labels_in(tmp_path / "out", "a"), labels)
    assert "(default, the paper's)" in call(drawn / "a.png", clip=toys.clip)[1]
    monkeypatch.chdir(tmp_path)
    other = Path(shutil.copytree(toys.clip, tmp_path / "elsewhere" / "prompt"))
    (other / "note.txt").write_text("another CLIP")
    assert "(default, the paper's)" in call(drawn / "a.png", clip="elsewhere/prompt")[1]


@pytest.mark.parametrize("classifier", ["clip", "proposals", "ensemble"])
def test_the_label_map_is_what_the_benchmark_scores(
    call: Call, toys: Toys, tmp_path: Path, runtime: Runtime, classifier: str
) -> None:
    folder = draw_benchmark(tmp_path / "set", 3)
    settings, table = three_classifiers("model", 0.45, 0.6), tmp_path / "table"
    models = {"model": toys.clip}
    evaluate(folder, toys.network, models, table, runtime, settings, options=SegmentOptions(), crop=CropOptions())
    expected = {
        row["item"]: (row["confusion_index"], row["pixels"])
        for row in tables.rows(table, "segmentations")
        if row["classifier"] == classifier
    }
    images = tmp_path / "set" / "images"
    assert call(images, classifier=classifier, weight="0.6", mask_threshold="0.45", batch_size="2")[0] == 0
    benchmark = read_benchmark(folder)
    for item in range(3):
        index, pixels = confusion(benchmark.read(item)[1], labels_in(tmp_path / "out", str(item)), len(NAMES), IGNORE)
        assert expected[item] == (index.tolist(), pixels.tolist())


def test_names_are_a_list_or_a_file_with_synonyms(tmp_path: Path) -> None:
    assert read_names("road | route, cat") == [["road", "route"], ["cat"]]
    assert read_names("  a big cat ") == [["a big cat"]] and read_names("") == [] == read_names("  ")
    (tmp_path / "names.txt").write_text("road | route\n\n cat \nDr. Who, a doctor\n", encoding="utf-8")
    assert read_names(str(tmp_path / "names.txt")) == [["road", "route"], ["cat"], ["Dr. Who, a doctor"]]
    (tmp_path / "names.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(OvsegError, match=r"names\.txt"):
        read_names(str(tmp_path / "names.txt"))


def test_a_file_of_names_from_windows_begins_with_a_name(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes("猫\r\nperro\r\n".encode("utf-8-sig"))
    assert read_names(str(tmp_path / "names.txt")) == [["猫"], ["perro"]]


@pytest.mark.parametrize(
    "text",
    [
        "missing.txt",
        "Missing.TXT",
        "lists/names.csv",
        "/no/such/names",
        "./names",
        "../names",
        "~/names",
        "C:\\names",
        "cat, names.txt",
        "cat | names.json, dog",
        "here/names",
        "here/",
    ],
)
def test_a_file_of_names_that_is_not_there_is_no_class(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(OvsegError, match="there is no file"):
        read_names(text)
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(OvsegError, match=r"empty\.txt contains no names"):
        read_names("empty.txt")


def test_a_class_that_looks_like_a_file_ends_with_a_comma(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_names("names.txt,") == [["names.txt"]] and read_names("./x ,") == [["./x"]]
    assert read_names("tv/monitor") == [["tv/monitor"]] and read_names("St. Bernard, no. 5") == [
        ["St. Bernard"],
        ["no. 5"],
    ]
    (tmp_path / "a, b.txt").write_text("cat\n")
    assert read_names("a, b.txt") == [["cat"]]


@pytest.mark.parametrize("text", ["猫" * 100, "cat" * 1000, "a/b", "cat\0dog"], ids=["wide", "long", "slash", "zero"])
def test_a_name_that_no_file_could_have_is_a_name(text: str) -> None:
    assert read_names(text) == [[text]]
