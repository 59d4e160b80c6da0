"""Segmenters, and image files, for the tests of the app."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ovseg.app.answers import Answers, Question, read_question
from ovseg.core.options import SegmentOptions
from ovseg.segmentation.segmenter import Segmenter
from tests.conftest import Toys
from tests.report.conftest import made
from tests.toys import noise

__all__ = ["made"]

WORDS = "star, key | boat, fish"


def png(seed: int = 0) -> bytes:
    """An image file of noise with rectangles."""
    stream = io.BytesIO()
    Image.fromarray(noise(seed)).save(stream, "PNG")
    return stream.getvalue()


def question(words: str = WORDS, weight: float = 0.7, threshold: float = 0.5, others: bool = False) -> Question:
    return read_question(words, weight, threshold, others)


@pytest.fixture(scope="session")
def segmenter(toys: Toys) -> Segmenter:
    return Segmenter.load(toys.network, toys.clip, mask_threshold=0.5, options=SegmentOptions(templates="single"))


@pytest.fixture(scope="session")
def segmenters(segmenter: Segmenter) -> dict[str, Segmenter]:
    """Two models that differ: the second one sees crops of other colors."""
    clip = segmenter.clip
    return {"base": segmenter, "adapted": replace(segmenter, clip=replace(clip, mean=clip.mean + 0.5))}


@pytest.fixture
def answers(segmenters: dict[str, Segmenter]) -> Answers:
    return Answers(segmenters)


def labels_of(image: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """The classes of a drawn label map: red + 256 * green."""
    pixels = np.asarray(image.convert("RGB")).astype(np.int64)
    return np.asarray(pixels[..., 0] + 256 * pixels[..., 1])
