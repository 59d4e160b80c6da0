"""Models that are loaded once for all tests of this folder."""

from __future__ import annotations

import pytest

from ovseg.clip.adapted import load_adapted
from ovseg.clip.load import Clip
from ovseg.core.options import SegmentOptions
from ovseg.segmentation.segmenter import Segmenter
from tests.conftest import Toys


@pytest.fixture(scope="session")
def clip(toys: Toys) -> Clip:
    return load_adapted(toys.clip)


@pytest.fixture(scope="session")
def segmenter(toys: Toys) -> Segmenter:
    return Segmenter.load(toys.network, toys.clip, mask_threshold=0.5, options=SegmentOptions(templates="single"))
