"""Shards for training that no mining was needed for, and a small CLIP to train."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset as wds

from ovseg.clip.save import save_clip
from ovseg.core.options import IndexOptions
from ovseg.core.samples import Sample, encode_sample, sample_key
from ovseg.engine.runtime import Runtime
from ovseg.mining.index import build_index
from tests.conftest import Coco, random_clip

NOUNS = ("star", "key", "boat", "fish", "guitar", "kite")
SHARDS, PER_SHARD = 4, 16
SMALL: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def make_sample(number: int, all_foreground: bool = False) -> Sample:
    """A crop of noise; its mask is the left half, or all of it."""
    rng = np.random.default_rng(number)
    mask = np.ones((20, 24), bool)
    if not all_foreground:
        mask[:, 12:] = False
    noun = int(rng.integers(len(NOUNS)))
    crop = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
    return Sample(sample_key(number), crop, mask, NOUNS[noun], {"noun_id": noun})


def write_set(folder: Path, all_foreground: bool = False) -> Path:
    """A finished set of shards of 64 samples."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {}
    for shard in range(SHARDS):
        name = f"{shard:05d}.tar"
        with (folder / name).open("wb") as stream, wds.TarWriter(stream, mtime=0) as tar:
            for i in range(PER_SHARD):
                tar.write(encode_sample(make_sample(shard * PER_SHARD + i, all_foreground), 95))
        sizes[name] = PER_SHARD
    (folder / "sizes.json").write_text(json.dumps(sizes))
    (folder / "nouns.json").write_text(json.dumps({noun: i for i, noun in enumerate(NOUNS)}))
    (folder / "step.json").write_text(json.dumps({"fingerprint": f"pairs-{all_foreground}", "counts": {}, "files": {}}))
    return folder


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return write_set(tmp_path / "shards")


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP with three blocks, in the local-dir layout."""
    folder = tmp_path_factory.mktemp("base") / "base"
    save_clip(random_clip(SMALL), SMALL, folder)
    return folder


@pytest.fixture(scope="session")
def index(coco: Coco, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index of the six small images."""
    folder = tmp_path_factory.mktemp("index")
    build_index(
        folder / "index",
        Runtime(workers=1, work=folder / "work"),
        IndexOptions(images=coco.images, captions=coco.captions),
    )
    return folder / "index"
