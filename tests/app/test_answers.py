"""Answers are those of `Segmenter`, and no step is done twice."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ovseg.app.answers import MAX_CLASSES, MAX_IMAGES, Answers, read_question
from ovseg.clip.text_prompts import new_text_prompts
from ovseg.core.errors import OvsegError
from ovseg.core.images import decode_image
from ovseg.segmentation.segmenter import Segmenter
from tests.app.conftest import png, question
from tests.towers import with_pseudo_texts


def broken(*_: Any, **__: Any) -> Any:
    raise AssertionError("a model ran again")


@pytest.fixture
def stop_models(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function after whose call no image tower and no proposal network can run."""

    def stop() -> None:
        for segmenter in answers.segmenters.values():
            monkeypatch.setattr(segmenter.clip.model, "encode_image", broken)
            monkeypatch.setattr(segmenter.network.model, "forward", broken)

    return stop


def test_an_answer_is_the_segmentation_of_each_model(answers: Answers) -> None:
    asked = question(others=True)
    for name, answer in answers.answer(png(), asked).items():
        expected = answers.segmenters[name].segment(decode_image(png()), ["star", ["key", "boat"], "fish"], others=True)
        assert answer.segmentation.names == expected.names == ("star", "key", "fish", "others")
        np.testing.assert_array_equal(answer.segmentation.labels, expected.labels)
        np.testing.assert_allclose(answer.segmentation.proposal_scores, expected.proposal_scores, atol=1e-6)


def test_words_weight_and_others_run_no_image_model_again(answers: Answers, stop_models: Callable[[], None]) -> None:
    before = answers.answer(png(), question())["base"]
    stop_models()
    after = answers.answer(png(), question(words="grass, sky", weight=0.1, others=True))["base"]
    assert after.segmentation.names == ("grass", "sky", "others")
    assert before.segmentation.names == ("star", "key", "fish")


def test_words_are_embedded_once_for_all_models_that_have_learned_nothing_about_texts(
    segmenters: dict[str, Segmenter],
) -> None:
    learned = replace(segmenters["base"].clip, text_prompts=new_text_prompts(segmenters["base"].clip.model, 0, 5))
    answers = Answers({**segmenters, "prompted": replace(segmenters["base"], clip=learned)})
    base, adapted, prompted = (answers._vocabulary(name, question()) for name in answers.segmenters)
    assert base is adapted and not torch.equal(base.texts, prompted.texts)


def test_prepared_thresholds_run_no_image_model_again_and_give_the_same(
    answers: Answers, segmenter: Segmenter, stop_models: Callable[[], None]
) -> None:
    pixels = decode_image(png())
    output = segmenter.network.predict(pixels)
    expected = segmenter.binarize(pixels, output, 0.3)
    assert answers.prepare(png(), (0.5, 0.3), seconds=60) == [0.5, 0.3]
    stop_models()
    areas = answers.answer(png(), question(threshold=0.3))["base"].segmentation.areas
    assert (areas > 0).tolist() == [rle is not None for rle in expected]


def test_preparing_ends_with_its_time(answers: Answers) -> None:
    assert answers.prepare(png(), (0.5, 0.3), seconds=-1) == []


def test_few_images_are_kept_and_the_least_recent_one_is_dropped(answers: Answers) -> None:
    for seed in range(MAX_IMAGES + 2):
        answers.answer(png(seed), question())
        answers.answer(png(0), question())
    assert len(answers._images) == MAX_IMAGES
    assert answers.pixels(png(0)) is answers.pixels(png(0))


def test_the_region_of_a_pixel_has_the_scores_of_both_classifiers(answers: Answers) -> None:
    asked = question(weight=0.7)
    found = answers.answer(png(), asked)
    y, x = (int(i) for i in np.unravel_index(found["base"].segmentation.pixel_scores.argmax(), (48, 64)))
    region = answers.region_at(png(), asked, y, x)["base"]
    word, score, clip, network = region.rows[0]
    assert word == found["base"].segmentation.names[found["base"].segmentation.labels[y, x]]
    assert clip is not None and score == pytest.approx(network**0.3 * clip**0.7)
    assert [row[1] for row in region.rows] == sorted((row[1] for row in region.rows), reverse=True)
    assert 0 < region.area <= 1


@pytest.mark.parametrize(
    ("data", "problem"), [(b"", "cannot be read"), (b"%PDF-1.4", "PDF"), (png()[:200], "cannot be read")]
)
def test_a_bad_image_is_an_error_that_says_what_it_is(data: bytes, problem: str, answers: Answers) -> None:
    with pytest.raises(OvsegError, match=problem):
        answers.answer(data, question())


def test_a_large_image_and_too_many_classes_are_refused(answers: Answers) -> None:
    stream = io.BytesIO()
    Image.new("1", (6000, 5000)).save(stream, "PNG")
    with pytest.raises(OvsegError, match="30 megapixels"):
        answers.answer(stream.getvalue(), question())
    with pytest.raises(OvsegError, match="more than the 500"):
        answers.answer(png(), question(words=",".join(map(str, range(MAX_CLASSES + 1)))))


def test_words_are_separated_by_commas_or_lines_and_no_file_is_read() -> None:
    assert read_question(" cat,\nsofa | couch ,, ", 0.5, 0.4, False).classes == (("cat",), ("sofa", "couch"))
    assert read_question("/etc/passwd", 0.5, 0.4, False).classes == (("/etc/passwd",),)
    with pytest.raises(OvsegError, match="no words"):
        read_question(" , ", 0.5, 0.4, False)


def test_a_model_with_pseudo_texts_answers_as_it_segments_and_runs_no_image_model_again(
    segmenter: Segmenter, stop_models: Callable[[], None], tmp_path: Path
) -> None:
    """Its answer at a threshold without any mask is that of the network alone, as there."""
    pseudo = replace(segmenter, clip=with_pseudo_texts(tmp_path))
    answers, pixels = Answers({"pseudo": pseudo}), decode_image(png())
    for threshold in (0.5, 0.999999):
        answer = answers.answer(png(), question(threshold=threshold))["pseudo"].segmentation
        expected = replace(pseudo, mask_threshold=threshold).segment(pixels, ["star", ["key", "boat"], "fish"])
        np.testing.assert_array_equal(answer.labels, expected.labels)
        np.testing.assert_allclose(answer.proposal_scores, expected.proposal_scores, atol=1e-6)
    assert not expected.areas.any()
    stop_models()
    assert answers.answer(png(), question(words="grass, sky"))["pseudo"].segmentation.names == ("grass", "sky")
