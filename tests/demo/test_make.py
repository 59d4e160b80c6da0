"""The demo's data set on disk, and the section of params.yaml that it reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data.demo.draw import DemoOptions
from data.demo.world.make import ROLES, SPLITS, make_split
from ovseg.core import masks
from ovseg.core.errors import OvsegError
from ovseg.core.params import read_section
from ovseg.datasets.benchmark import read_benchmark
from tests.conftest import ROOT, digests


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    for folder, seed in (("first", 0), ("again", 0), ("other", 1)):
        make_split(tmp_path / folder, "val", 3, seed)
    first, again, other = (digests(tmp_path / folder) for folder in ("first", "again", "other"))
    assert first == again and first.keys() == other.keys() and first["truth.json"] != other["truth.json"]


def test_a_split_has_images_captions_masks_and_its_benchmarks(tmp_path: Path) -> None:
    for split in SPLITS:
        folder = tmp_path / split
        make_split(folder, split, 2, 0)
        content = {
            name: json.loads((folder / f"{name}.json").read_text()) for name in ("captions", "panoptic", "truth")
        }
        ids = [image["id"] for image in content["captions"]["images"]]
        assert len(ids) == 2 == len(list((folder / "images").iterdir()))
        assert [caption["image_id"] for caption in content["captions"]["annotations"]] == sorted(ids * 5)
        annotated = {category["id"] for category in content["panoptic"]["categories"]}
        assert annotated < {category["id"] for category in content["truth"]["categories"]}
        for segment in content["truth"]["annotations"]:
            masks.from_coco(segment["segmentation"], *segment["segmentation"]["size"])
        assert {p.name for p in folder.iterdir() if (p / "benchmark.json").is_file()} == set(ROLES[split])
        for role in ROLES[split]:
            assert read_benchmark(folder / role).items


def test_a_wrong_value_in_section_demo_is_named(tmp_path: Path) -> None:
    assert read_section(ROOT / "recipes" / "demo.yaml", "demo", DemoOptions).train > 0
    path = tmp_path / "params.yaml"
    path.write_text("demo: {seed: 0, train: 0, val: 1, benchmark: 1}\n")
    with pytest.raises(OvsegError, match=r"demo\.train"):
        read_section(path, "demo", DemoOptions)
