"""Images in a folder: what is written of each, what was done before, what is left out; overlays that a person reads."""

from __future__ import annotations

import json
import logging
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovseg.core.errors import OvsegError
from ovseg.core.images import decode_labels
from ovseg.segmentation.image_files import list_images, segment_images
from ovseg.segmentation.overlay import GREY, LEAST_SIDE, MOST_ROWS, STRENGTH, beside, class_colour, overlay, paint
from ovseg.segmentation.segmenter import Segmenter
from tests.toys import WORDS, noise

NAMES = WORDS[:4]
ABOUT = {"weight": 0.7}


def draw(path: Path, seed: int = 0, height: int = 48, width: int = 64) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(seed, height, width)).save(path)
    return path


def segment(
    segmenter: Segmenter, given: list[Path], out: Path, names: Any = NAMES, about: dict[str, Any] | None = None
) -> dict[str, int]:
    words = segmenter.vocabulary(names)
    return segment_images(segmenter, list_images(given), words, out, "ensemble", ABOUT if about is None else about)


def test_images_and_folders_are_listed_by_the_names_of_their_files(tmp_path: Path) -> None:
    one = draw(tmp_path / "one.png")
    for name in ("b.PNG", "a.jpg", "deep/er/c.d.png"):
        draw(tmp_path / "folder" / name)
    (tmp_path / "folder" / "notes.txt").write_text("no image")
    found = list_images([tmp_path / "folder", one, one])
    assert list(found) == ["a", "b", "deep/er/c.d", "one"]
    assert found["deep/er/c.d"] == tmp_path / "folder" / "deep/er/c.d.png"


def test_what_cannot_be_listed_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(OvsegError, match=r"gone\.png does not exist"):
        list_images([tmp_path / "gone.png"])
    with pytest.raises(OvsegError, match=r"empty holds no image \(.bmp"):
        list_images([tmp_path / "empty"])


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    given = [draw(tmp_path / "cat.png"), draw(tmp_path / "cat.jpg")]
    with pytest.raises(OvsegError, match=r"cat.png and .*cat.jpg would both be written as cat.\*"):
        list_images(given)
    with pytest.raises(OvsegError, match="would both be written"):
        list_images([tmp_path])
    with pytest.raises(OvsegError, match="would both be written"):
        list_images([draw(tmp_path / "a" / "x.png"), draw(tmp_path / "b" / "x.png")])


def test_of_each_image_three_files_are_written_that_agree(segmenter: Segmenter, tmp_path: Path) -> None:
    given = [draw(tmp_path / "in" / "cat.png", 0), draw(tmp_path / "in" / "deep" / "dog.png", 1)]
    assert segment(segmenter, [tmp_path / "in"], tmp_path / "out") == {"images": 2}
    files = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert files == [f"{name}.{end}" for name in ("cat", "deep/dog") for end in ("json", "labels.png", "overlay.png")]
    for seed, path in enumerate(given):
        target = tmp_path / "out" / path.relative_to(tmp_path / "in").with_suffix("")
        labels = decode_labels(target.with_suffix(".labels.png").read_bytes())
        wanted = segmenter.segment(noise(seed), NAMES)
        assert labels.dtype == np.uint8 and np.array_equal(labels, wanted.labels)
        said = json.loads(target.with_suffix(".json").read_text())
        assert said["image"] == str(path) and said["names"] == list(NAMES) and said["how"] == ABOUT
        assert [row["pixels"] for row in said["classes"]] == sorted(np.unique(labels, return_counts=True)[1])[::-1]
        for row in said["classes"]:
            inside = labels == row["label"]
            assert row["name"] == NAMES[row["label"]] and row["pixels"] == inside.sum()
            assert row["share"] == pytest.approx(inside.mean(), abs=1e-6)
            assert row["score"] == pytest.approx(wanted.score[inside].mean(), abs=1e-5)
        assert sum(row["share"] for row in said["classes"]) == pytest.approx(1, abs=1e-5)
        with Image.open(target.with_suffix(".overlay.png")) as image:
            assert image.mode == "RGB" and image.width > LEAST_SIDE - 1


def test_more_than_256_classes_are_written_with_16_bits(segmenter: Segmenter, tmp_path: Path) -> None:
    words = segmenter.vocabulary([*(f"thing {i}" for i in range(300)), *NAMES])
    found = segmenter.segment_with(noise(0), words, "proposals")
    given = list_images([draw(tmp_path / "cat.png")])
    segment_images(segmenter, given, words, tmp_path / "out", "proposals", ABOUT)
    labels = decode_labels((tmp_path / "out" / "cat.labels.png").read_bytes())
    assert labels.max() > 255 and np.array_equal(labels, found.labels)


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_what_was_done_before_in_the_same_way_is_left_as_it_is(segmenter: Segmenter, tmp_path: Path) -> None:
    out, given = tmp_path / "out", [draw(tmp_path / "a.png"), draw(tmp_path / "b.png", 1)]
    assert segment(segmenter, given, out) == {"images": 2}
    before = times(out)
    assert segment(segmenter, given, out) == {"images": 0, "done_before": 2}
    assert times(out) == before
    draw(given[1], 2)
    assert segment(segmenter, given, out) == {"images": 1, "done_before": 1}
    assert segment(segmenter, given, out, about={"weight": 0.3}) == {"images": 2}
    assert segment(segmenter, given, out, NAMES[:3], {"weight": 0.3}) == {"images": 2}
    (out / "a.json").write_text('{"half a fi')
    assert segment(segmenter, given, out, NAMES[:3], {"weight": 0.3}) == {"images": 1, "done_before": 1}


def test_other_synonyms_are_another_way(segmenter: Segmenter, tmp_path: Path) -> None:
    given = [draw(tmp_path / "a.png")]
    segment(segmenter, given, tmp_path / "out", [["star", "boat"], ["key"]])
    assert segment(segmenter, given, tmp_path / "out", [["star", "kite"], ["key"]]) == {"images": 1}


def test_a_missing_label_map_is_made_anew(segmenter: Segmenter, tmp_path: Path) -> None:
    given = [draw(tmp_path / "a.png")]
    segment(segmenter, given, tmp_path / "out")
    (tmp_path / "out" / "a.labels.png").unlink()
    segment(segmenter, given, tmp_path / "out")
    assert (tmp_path / "out" / "a.labels.png").is_file()


def test_a_broken_image_is_named_and_counted_and_the_others_are_written(
    segmenter: Segmenter, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    folder = tmp_path / "in"
    draw(folder / "a.png")
    draw(folder / "c.png", 1)
    (folder / "b.png").write_bytes(b"no image")
    (folder / "d.png").write_bytes((folder / "a.png").read_bytes()[:2000])
    (folder / "e.png").write_bytes(b"")
    counts = segment(segmenter, [folder], tmp_path / "out")
    assert counts == {"images": 2, "dropped.not_an_image": 2, "dropped.truncated": 1}
    assert {path.name.split(".")[0] for path in (tmp_path / "out").iterdir()} == {"a", "c"}
    said = caplog.text + capsys.readouterr().err
    for name in ("b.png", "d.png", "e.png"):
        assert f"{folder / name} is left out" in said


def test_a_class_has_the_same_colour_in_every_image_and_neighbours_differ() -> None:
    colours = [class_colour(number) for number in range(200)]
    assert colours == [class_colour(number) for number in range(200)]
    assert len(set(colours[:60])) == 60 and all(0 <= value <= 255 for colour in colours for value in colour)
    assert all(sum(abs(a - b) for a, b in zip(*pair, strict=True)) > 60 for pair in pairwise(colours))


def test_a_painted_image_mixes_colours_and_has_borders() -> None:
    labels = np.zeros((6, 8), np.uint16)
    labels[:, 4:], labels[4:, :2] = 1, 255
    pixels = np.full((6, 8, 3), 100, np.uint8)
    found = paint(pixels, labels, 2)
    for (y, x), colour in (((1, 1), class_colour(0)), ((1, 6), class_colour(1)), ((5, 0), GREY)):
        wanted = 100 * (1 - STRENGTH) + np.array(colour) * STRENGTH
        np.testing.assert_allclose(found[y, x], wanted, atol=1)
    assert (found[:, 4] == 255).all() and (found[4, :2] == 255).all()
    assert found.shape == pixels.shape and found.dtype == np.uint8


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (400, 300)])
def test_an_overlay_of_any_size_has_its_legend_beside_it(size: tuple[int, int]) -> None:
    found = overlay(noise(0, *size), np.zeros(size, np.uint16), ["a name"])
    assert found.mode == "RGB" and found.width > size[1] and found.height >= size[0]


def test_an_overlay_shows_what_is_no_class_in_grey_and_without_a_row() -> None:
    labels = np.full((40, 40), 255, np.uint8)
    with_none, with_one = overlay(noise(0, 40, 40), labels, []), overlay(noise(0, 40, 40), labels * 0, ["cat"])
    assert with_none.width < with_one.width


def test_a_legend_of_too_many_rows_says_how_many_are_left() -> None:
    image = Image.new("RGB", (10, 10))
    rows = [((255, 0, 0), f"class {i}") for i in range(MOST_ROWS + 7)]
    assert beside(image, rows).height == beside(image, [*rows[:MOST_ROWS], ((0, 0, 0), "x")]).height
    assert np.array_equal(
        np.asarray(beside(image, rows)), np.asarray(beside(image, [*rows[:-1], ((9, 9, 9), "another")]))
    )
