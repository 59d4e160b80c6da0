"""What the page gets to draw."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from ovseg.app import view
from ovseg.app.answers import Answer, Answers, Region
from ovseg.segmentation.class_probs import ClassProbs
from ovseg.segmentation.segmenter import Segmentation
from tests.app.conftest import labels_of, png, question


def opened(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1])))


def made_answer(labels: np.ndarray[tuple[int, int], np.dtype[np.uint16]], names: tuple[str, ...]) -> Answer:
    import torch

    empty = torch.zeros(0, len(names), dtype=torch.float64)
    scores = np.zeros((0, len(names)))
    pixel_scores = np.arange(labels.size, dtype=np.float32).reshape(labels.shape)
    found = Segmentation(names, labels, pixel_scores, scores, np.zeros(0, np.int64))
    return Answer(found, ClassProbs(empty, empty, torch.zeros(0, dtype=torch.bool)))


def test_labels_are_drawn_as_they_are_with_the_best_pixel_of_each_class(answers: Answers) -> None:
    found = answers.answer(png(), question())
    shown = view.describe_view(answers.pixels(png()), found)
    assert (shown["width"], shown["height"]) == (64, 48) == opened(shown["image"]).size
    assert [one["name"] for one in shown["classes"]] == ["star", "key", "fish"]
    for model in shown["models"]:
        labels = found[model["name"]].segmentation.labels
        np.testing.assert_array_equal(labels_of(opened(model["labels"])), labels)
        assert sum(one["fraction"] for one in model["found"]) == np.float64(1).round(4)
        assert all(labels[one["y"], one["x"]] == one["label"] for one in model["found"])


def test_more_than_256_classes_and_large_images_are_drawn() -> None:
    labels = np.zeros((600, 2000), np.uint16)
    labels[:, 1000:] = 700
    shown = view.describe_view(
        np.zeros((600, 2000, 3), np.uint8), {"m": made_answer(labels, tuple(map(str, range(701))))}
    )
    drawn = labels_of(opened(shown["models"][0]["labels"]))
    assert drawn.shape == (round(600 * 1024 / 2000), 1024) and opened(shown["image"]).size == (1024, 307)
    assert set(np.unique(drawn[:, :511])) == {0} and set(np.unique(drawn[:, 513:])) == {700}


def test_no_word_can_become_markup() -> None:
    evil = "<img src=x onerror=alert(1)>"
    tables = view.region_tables({evil: Region(0.5, ((evil, 0.5, None, 0.25),))})
    assert "<img" not in tables and "&lt;img" in tables and "<td>-</td>" in tables
    assert "<b>" not in view.message("<b>")
