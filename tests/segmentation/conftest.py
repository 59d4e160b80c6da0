"""Models that are loaded once for all tests of this folder."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ovseg.clip.adapted import load_adapted
from ovseg.clip.load import Clip
from ovseg.clip.text_prompts import new_text_prompts
from ovseg.core.options import SegmentOptions
from ovseg.segmentation.segmenter import Segmenter
from tests.conftest import Toys


@pytest.fixture(scope="session")
def clip(toys: Toys) -> Clip:
    return load_adapted(toys.clip)


def with_text_prompts(clip: Clip) -> Clip:
    """The same CLIP with random text prompts that change its embeddings much."""
    return replace(clip, text_prompts=30 * new_text_prompts(clip.model, seed=0, number=5))


@pytest.fixture(scope="session")
def segmenter(toys: Toys) -> Segmenter:
    return Segmenter.load(toys.network, toys.clip, mask_threshold=0.5, options=SegmentOptions(templates="single"))
