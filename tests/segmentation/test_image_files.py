"""Segmentation of image files: the outputs of each, which images are skipped or left out, and overlays."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovseg.core.errors import OvsegError
from ovseg.core.images import decode_labels
from ovseg.core.options import Orientation
from ovseg.segmentation import image_files
from ovseg.segmentation.image_files import list_images, segment_images
from ovseg.segmentation.overlay import (
    GREY,
    MAX_ROWS,
    MIN_SIDE,
    OPACITY,
    add_legend,
    blend_labels,
    class_color,
    draw_overlay,
)
from ovseg.segmentation.segmenter import Segmenter
from tests.toys import WORDS, noise

NAMES = WORDS[:4]
SETTINGS = {"weight": 0.7}


def draw(path: Path, seed: int = 0, height: int = 48, width: int = 64) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(seed, height, width)).save(path)
    return path


def segment(
    segmenter: Segmenter, paths: list[Path], out: Path, names: Any = NAMES, settings: Mapping[str, Any] = SETTINGS
) -> dict[str, int]:
    return segment_images(segmenter, list_images(paths), segmenter.vocabulary(names), out, "ensemble", settings)


def test_images_and_folders_are_listed_by_the_names_of_their_outputs(tmp_path: Path) -> None:
    single = draw(tmp_path / "single.png")
    for name in ("b.PNG", "a.jpg", "deep/er/c.d.png"):
        draw(tmp_path / "folder" / name)
    (tmp_path / "folder" / "notes.txt").write_text("no image")
    images, unread = list_images([tmp_path / "folder", single, single])
    assert unread == [tmp_path / "folder" / "notes.txt"]
    assert list(images) == ["a", "b", "deep/er/c.d", "single"]
    assert images["deep/er/c.d"] == tmp_path / "folder" / "deep/er/c.d.png"


def test_files_of_a_folder_that_are_no_images_are_named_and_counted(
    segmenter: Segmenter, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every suffix of an image is read; what file systems leave there is not mentioned."""
    caplog.set_level(logging.INFO)
    folder = tmp_path / "in"
    for name in ("a.JPEG", "b.webp", "c.bmp"):
        draw(folder / name)
    for name in ("notes.txt", "photo.heic", "._a.jpg", ".DS_Store", "Thumbs.db", "__MACOSX/a.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    assert segment(segmenter, [folder], tmp_path / "out") == {"images": 3, "unread_files": 2}
    messages = caplog.text + capsys.readouterr().err
    assert "notes.txt" in messages and "photo.heic" in messages and "Thumbs.db" not in messages


def test_outputs_in_the_folder_of_the_images_are_not_segmented(segmenter: Segmenter, tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    assert segment(segmenter, [tmp_path], tmp_path) == {"images": 1}
    assert segment(segmenter, [tmp_path], tmp_path) == {"images": 0, "done_before": 1}
    draw(tmp_path / "b.labels.png")  # no output, as it has no JSON file beside it
    assert segment(segmenter, [tmp_path], tmp_path) == {"images": 1, "done_before": 1}


@pytest.mark.parametrize(("orientation", "size"), [("exif", (48, 64)), ("raw", (64, 48))])
def test_rotated_images_are_counted_and_used_as_asked(
    segmenter: Segmenter, tmp_path: Path, orientation: Orientation, size: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(0, 48, 64)).save(tmp_path / "a.png", exif=exif)
    vocabulary = segmenter.vocabulary(NAMES)
    found = list_images([tmp_path / "a.png"])
    counts = segment_images(segmenter, found, vocabulary, tmp_path / "out", "clip", SETTINGS, orientation)
    assert counts == {"images": 1, "rotated": 1}
    with Image.open(tmp_path / "out" / "a.labels.png") as labels:
        assert labels.size == size


def test_a_missing_path_and_a_folder_without_images_are_errors(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(OvsegError, match=r"gone\.png"):
        list_images([tmp_path / "gone.png"])
    with pytest.raises(OvsegError, match="empty contains no image"):
        list_images([tmp_path / "empty"])


def test_two_images_with_the_same_output_name_are_an_error(tmp_path: Path) -> None:
    paths = [draw(tmp_path / "cat.png"), draw(tmp_path / "cat.jpg")]
    with pytest.raises(OvsegError, match=r"cat\.png .*cat\.jpg .* cat\.\*"):
        list_images(paths)
    with pytest.raises(OvsegError, match=r" cat\.\*"):
        list_images([tmp_path])
    with pytest.raises(OvsegError, match=r" x\.\*"):
        list_images([draw(tmp_path / "a" / "x.png"), draw(tmp_path / "b" / "x.png")])


def test_each_image_gives_three_files_that_agree(segmenter: Segmenter, tmp_path: Path) -> None:
    paths = [draw(tmp_path / "in" / "cat.png", 0), draw(tmp_path / "in" / "deep" / "dog.png", 1)]
    assert segment(segmenter, [tmp_path / "in"], tmp_path / "out") == {"images": 2}
    files = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert files == [f"{name}.{end}" for name in ("cat", "deep/dog") for end in ("json", "labels.png", "overlay.png")]
    for seed, path in enumerate(paths):
        target = tmp_path / "out" / path.relative_to(tmp_path / "in").with_suffix("")
        labels = decode_labels(target.with_suffix(".labels.png").read_bytes())
        expected = segmenter.segment(noise(seed), NAMES)
        assert labels.dtype == np.uint8 and np.array_equal(labels, expected.labels)
        record = json.loads(target.with_suffix(".json").read_text())
        assert record["image"] == str(path) and record["names"] == list(NAMES) and record["settings"] == SETTINGS
        assert [row["pixels"] for row in record["classes"]] == sorted(np.unique(labels, return_counts=True)[1])[::-1]
        for row in record["classes"]:
            inside = labels == row["label"]
            assert row["name"] == NAMES[row["label"]] and row["pixels"] == inside.sum()
            assert row["fraction"] == pytest.approx(inside.mean(), abs=1e-6)
            assert row["score"] == pytest.approx(expected.pixel_scores[inside].mean(), abs=1e-5)
        assert sum(row["fraction"] for row in record["classes"]) == pytest.approx(1, abs=1e-5)
        with Image.open(target.with_suffix(".overlay.png")) as image:
            assert image.mode == "RGB" and image.width > MIN_SIDE - 1


def test_more_than_256_classes_are_written_with_16_bits(segmenter: Segmenter, tmp_path: Path) -> None:
    vocabulary = segmenter.vocabulary([*(f"thing {i}" for i in range(300)), *NAMES])
    expected = segmenter.segment_with(noise(0), vocabulary, "proposals")
    images = list_images([draw(tmp_path / "cat.png")])
    segment_images(segmenter, images, vocabulary, tmp_path / "out", "proposals", SETTINGS)
    labels = decode_labels((tmp_path / "out" / "cat.labels.png").read_bytes())
    assert labels.max() > 255 and np.array_equal(labels, expected.labels)


def modification_times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_images_with_outputs_of_the_same_settings_are_skipped(segmenter: Segmenter, tmp_path: Path) -> None:
    out, paths = tmp_path / "out", [draw(tmp_path / "a.png"), draw(tmp_path / "b.png", 1)]
    assert segment(segmenter, paths, out) == {"images": 2}
    before = modification_times(out)
    assert segment(segmenter, paths, out) == {"images": 0, "done_before": 2}
    assert modification_times(out) == before
    draw(paths[1], 2)
    assert segment(segmenter, paths, out) == {"images": 1, "done_before": 1}
    assert segment(segmenter, paths, out, settings={"weight": 0.3}) == {"images": 2}
    assert segment(segmenter, paths, out, NAMES[:3], {"weight": 0.3}) == {"images": 2}
    (out / "a.json").write_text('{"half a fi')
    assert segment(segmenter, paths, out, NAMES[:3], {"weight": 0.3}) == {"images": 1, "done_before": 1}


def test_other_synonyms_are_other_settings(segmenter: Segmenter, tmp_path: Path) -> None:
    paths = [draw(tmp_path / "a.png")]
    segment(segmenter, paths, tmp_path / "out", [["star", "boat"], ["key"]])
    assert segment(segmenter, paths, tmp_path / "out", [["star", "kite"], ["key"]]) == {"images": 1}


@pytest.mark.parametrize("last", ["draw_overlay", "write_labels", "sync", "write_json"])
def test_after_a_kill_the_files_of_two_segmentations_never_count_as_one(
    segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """Whatever was done last: files of an image whose JSON is there are all of the same names."""
    paths, out = [draw(tmp_path / "a.png")], tmp_path / "out"
    segment(segmenter, paths, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(image_files, last, killed)
        with pytest.raises(KeyboardInterrupt):
            segment(segmenter, paths, out, NAMES[::-1])
    segment(segmenter, paths, out)
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.suffix != ".tmp"} == before


def test_a_missing_label_map_is_made_again(segmenter: Segmenter, tmp_path: Path) -> None:
    paths = [draw(tmp_path / "a.png")]
    segment(segmenter, paths, tmp_path / "out")
    (tmp_path / "out" / "a.labels.png").unlink()
    segment(segmenter, paths, tmp_path / "out")
    assert (tmp_path / "out" / "a.labels.png").is_file()


def test_broken_images_are_named_and_counted_and_the_others_are_segmented(
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
    assert counts == {"images": 2, "dropped.not_an_image": 1, "dropped.truncated": 1, "dropped.zero_bytes": 1}
    assert {path.name.split(".")[0] for path in (tmp_path / "out").iterdir()} == {"a", "c"}
    messages = caplog.text + capsys.readouterr().err
    for name in ("b.png", "d.png", "e.png"):
        assert str(folder / name) in messages


def test_a_class_has_the_same_colour_in_every_image_and_neighbours_differ() -> None:
    colors = [class_color(number) for number in range(200)]
    assert colors == [class_color(number) for number in range(200)]
    assert len(set(colors[:60])) == 60 and all(0 <= value <= 255 for color in colors for value in color)
    assert all(sum(abs(a - b) for a, b in zip(*pair, strict=True)) > 60 for pair in pairwise(colors))


def test_labels_are_blended_with_the_image_and_have_borders() -> None:
    labels = np.zeros((6, 8), np.uint16)
    labels[:, 4:], labels[4:, :2] = 1, 255
    pixels = np.full((6, 8, 3), 100, np.uint8)
    blended = blend_labels(pixels, labels, 2)
    for (y, x), color in (((1, 1), class_color(0)), ((1, 6), class_color(1)), ((5, 0), GREY)):
        expected = 100 * (1 - OPACITY) + np.array(color) * OPACITY
        np.testing.assert_allclose(blended[y, x], expected, atol=1)
    assert (blended[:, 4] == 255).all() and (blended[4, :2] == 255).all()
    assert blended.shape == pixels.shape and blended.dtype == np.uint8


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (400, 300)])
def test_an_overlay_of_any_size_has_its_legend_beside_it(size: tuple[int, int]) -> None:
    image = draw_overlay(noise(0, *size), np.zeros(size, np.uint16), ["a name"])
    assert image.mode == "RGB" and image.width > size[1] and image.height >= size[0]


def test_labels_of_no_class_have_no_row_in_the_legend() -> None:
    labels = np.full((40, 40), 255, np.uint8)
    without_class, with_class = (
        draw_overlay(noise(0, 40, 40), map_, names) for map_, names in ((labels, []), (labels * 0, ["cat"]))
    )
    assert without_class.width < with_class.width


def test_a_legend_with_too_many_rows_ends_with_their_number() -> None:
    image = Image.new("RGB", (10, 10))
    rows = [((255, 0, 0), f"class {i}") for i in range(MAX_ROWS + 7)]
    assert add_legend(image, rows).height == add_legend(image, [*rows[:MAX_ROWS], ((0, 0, 0), "x")]).height
    assert np.array_equal(
        np.asarray(add_legend(image, rows)), np.asarray(add_legend(image, [*rows[:-1], ((9, 9, 9), "another")]))
    )
