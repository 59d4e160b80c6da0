"""A benchmark of small images, drawn here; and what the networks of an evaluation are given."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ovseg.core.images import ImageArray
from ovseg.datasets.benchmark import write_benchmark
from ovseg.proposals.network import NetworkOutput, ProposalNetwork
from ovseg.segmentation.region_crops import RegionCrops
from ovseg.segmentation.region_encoder import RegionEncoder
from tests.toys import WORDS, noise

NAMES = WORDS[:6]
SEEN = (True, True, False, True, False, False)
IGNORE = 255
IMAGES = 5


def label_map(seed: int, height: int = 48, width: int = 64, classes: int = len(NAMES)) -> NDArray[np.uint8]:
    """Four blocks of classes, and a border that is not scored."""
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.integers(0, classes, (2, 2)), np.ones((height // 2, width // 2), np.int64)).astype(np.uint8)
    labels[:2] = IGNORE
    return labels


def draw_benchmark(
    folder: Path, number: int = IMAGES, seen: Sequence[bool] | None = SEEN, names: Sequence[str] = NAMES
) -> Path:
    """`number` images of 48 x 64."""
    images = folder / "images"
    images.mkdir(parents=True)
    items = []
    for i in range(number):
        Image.fromarray(noise(i)).save(images / f"{i}.png")
        items.append((f"{i}.png", f"{i}.png", label_map(i, classes=len(names))))
    write_benchmark(folder / "set", images, [[name] for name in names], IGNORE, items, seen=seen, source="drawn")
    return folder / "set"


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images of six classes; to be read, not written."""
    return draw_benchmark(tmp_path_factory.mktemp("drawn"))


class Passes:
    """What the networks of all segmenters are given from now on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.images: list[ImageArray] = []
        self.crops: list[int] = []
        predict, embed = ProposalNetwork.predict, RegionEncoder.embed

        def counted_predict(network: ProposalNetwork, pixels: ImageArray) -> NetworkOutput:
            self.images.append(pixels)
            return predict(network, pixels)

        def counted_embed(encoder: RegionEncoder, regions: RegionCrops) -> Tensor:
            self.crops.append(len(regions.crops))
            return embed(encoder, regions)

        monkeypatch.setattr(ProposalNetwork, "predict", counted_predict)
        monkeypatch.setattr(RegionEncoder, "embed", counted_embed)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Passes:
    return Passes(monkeypatch)


def changed_copy(folder: Path, weights: str, copy: Path) -> Path:
    """A copy of a model with another last weight."""
    shutil.copytree(folder, copy)
    data = np.frombuffer((copy / weights).read_bytes(), np.uint8).copy()
    data[-1] ^= 1
    (copy / weights).write_bytes(data.tobytes())
    return copy
