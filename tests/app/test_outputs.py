"""Files for download."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg.app.answers import Answers
from ovseg.app.outputs import KEEP_SECONDS, write_answer, write_batch
from ovseg.app.segment_handlers import SegmentHandlers
from ovseg.core.errors import OvsegError
from ovseg.segmentation.segmenter import Segmenter
from tests.app.conftest import WORDS, png, question


def image(folder: Path, name: str, data: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    return folder / name


def test_the_files_of_an_answer_are_those_of_each_model(answers: Answers, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    asked = question()
    files = {
        path.name: path for path in write_answer(answers, image(tmp_path, "a.png", png()), asked, tmp_path / "out")
    }
    assert set(files) == {f"a.{m}.{s}" for m in ("base", "adapted") for s in ("json", "labels.png", "overlay.png")}
    labels = np.asarray(Image.open(files["a.adapted.labels.png"]))
    np.testing.assert_array_equal(labels, answers.answer(png(), asked)["adapted"].segmentation.labels)
    record = json.loads(files["a.base.json"].read_text())
    assert record["names"] == ["star", "key", "fish"] and record["settings"]["weight"] == 0.7


def test_a_zip_holds_what_could_be_read_and_the_rest_is_named(answers: Answers, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    images = [image(tmp_path / "in", name, data) for name, data in (("a.png", png()), ("b.jpg", b"no image"))]
    archive, text = write_batch(answers, images, question(), tmp_path / "out")
    assert len(zipfile.ZipFile(archive).namelist()) == 6
    assert text.startswith("1 of 2 images") and "b.jpg" in text


@pytest.mark.parametrize(
    ("names", "problem"),
    [([], "no images yet"), (["a.png", "a.jpg"], "several images are named a"), (["b.txt"], "b.txt")],
)
def test_images_that_give_no_zip_are_an_error(names: list[str], problem: str, answers: Answers, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    images = [image(tmp_path / "in", name, b"no image") for name in names]
    with pytest.raises(OvsegError, match=problem):
        write_batch(answers, images, question(), tmp_path / "out")


def test_models_that_are_named_by_paths_have_files_of_their_own(
    segmenters: dict[str, Segmenter], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    answers = Answers({"one/clip": segmenters["base"], "two/clip": segmenters["adapted"]})
    picture = image(tmp_path, "a.png", png())
    names = {path.name for path in write_answer(answers, picture, question(), tmp_path / "out") if path.is_file()}
    expected = {f"a.{m}.{s}" for m in ("1_clip", "2_clip") for s in ("json", "labels.png", "overlay.png")}
    assert names == expected
    archive, _ = write_batch(answers, [picture], question(), tmp_path / "out")
    with zipfile.ZipFile(archive) as stream:
        assert set(stream.namelist()) == expected
        assert json.loads(stream.read("a.2_clip.json"))["model"] == "two/clip"


def test_an_upload_that_is_gone_is_said_and_ends_no_batch(answers: Answers, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    handlers, gone = SegmentHandlers(answers, tmp_path / "out"), str(tmp_path / "gone.png")
    asked = (WORDS, 0.7, 0.5, False)
    remedy = "drop the image again"
    assert remedy in handlers.show(gone, *asked)[1] and remedy in handlers.describe({"x": 0, "y": 0}, gone, *asked)
    assert remedy in handlers.save(gone, *asked)[1]
    handlers.prepare(gone, WORDS)
    archive, text = handlers.save_batch([gone, str(image(tmp_path, "a.png", png()))], *asked)
    assert archive is not None and "1 of 2 images are segmented" in text and "gone.png" in text


def test_old_files_are_removed(answers: Answers, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "old").mkdir(parents=True)
    os.utime(out / "old", (0, KEEP_SECONDS))
    write_answer(answers, image(tmp_path, "a.png", png()), question(), out)
    assert not (out / "old").exists() and len(list(out.iterdir())) == 1
