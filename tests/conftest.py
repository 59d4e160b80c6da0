"""Fixtures of all tests: a tiny real CLIP, small images in COCO's formats, a tagger, and a work folder for each test."""

from __future__ import annotations

import gc
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ovseg.core import masks
from ovseg.core.arithmetic import data_type
from ovseg.engine.process import start_process
from ovseg.engine.runtime import Runtime, devices
from tests.chromium import CHROMIUM
from tests.object_storage import Storage, serving_s3

start_process()  # as the commands do
ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
TAGGER = ROOT / "data" / "demo" / "tagger"
EWT = SHARED / "nlp_ewt"
WIDTH, HEIGHT = 64, 48
TINY: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
BLOCKER = """
import sys
from importlib.abc import MetaPathFinder

class NoDvc(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0].startswith("dvc"):
            raise ImportError(f"{name} is not installed")

sys.meta_path.insert(0, NoDvc())
"""
THINGS = ("star", "key", "boat", "fish", "guitar", "kite")

Row = dict[str, Any]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests of GPUs where there is none, and of bfloat16 where the processor has no units for it."""
    if item.get_closest_marker("gpu") and devices("auto") == ("cpu",):
        pytest.skip("this machine has no CUDA device")
    if item.get_closest_marker("bf16") and data_type("bf16", "cpu") != torch.bfloat16:
        pytest.skip("this processor has no units for bfloat16")


def pytest_unconfigure() -> None:
    """Give back what a step froze in this process, or triton reports its own objects as leaked."""
    gc.unfreeze()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A real browser, steered by Playwright; for tests marked `in_browser`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(autouse=True)
def work(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test has its own folder of unfinished work and none of the machine's environment variables."""
    folder = tmp_path_factory.mktemp("work")
    monkeypatch.setenv("OVSEG_WORK", str(folder))
    for name in (
        "OVSEG_OFFLINE",
        "OVSEG_MIRROR",
        "OVSEG_WRITERS",
        "OVSEG_DEVICE",
        "OVSEG_WORKERS",
        "OVSEG_BATCH_SIZE",
        "OVSEG_EXECUTOR",
        "OVSEG_UNIT_TIMEOUT",
        "OVSEG_SLURM",
        "RAY_ADDRESS",
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "OVSEG_PROCESSES",
        "OVSEG_MICRO_BATCH",
        "OVSEG_CHECKPOINT_SECONDS",
    ):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    """No test may leave logging switched off."""
    yield
    assert logging.root.manager.disable == logging.NOTSET


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Storage]:
    """A real S3 server on this machine, see `tests.object_storage`."""
    for package in ("s3fs", "moto", "upath", "flask_cors"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    with serving_s3() as storage:
        yield storage


@pytest.fixture
def s3(s3_server: Storage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    """The S3 server with an empty bucket `mining`. The clients of this process try a request twice, not five times."""
    import s3fs

    for name, value in {
        "AWS_ENDPOINT_URL": s3_server.url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "2",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 2)
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem(use_listings_cache=False)
    files.mkdir("mining")
    yield s3_server
    s3_server.faults.clear()
    s3_server.answered.clear()
    files.rm("mining", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def runtime(work: Path) -> Runtime:
    """One process and small batches."""
    return Runtime(workers=1, batch_size=8, work=work)


@pytest.fixture(scope="session")
def without_dvc(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of a process in which DVC cannot be imported."""
    block = tmp_path_factory.mktemp("block")
    (block / "sitecustomize.py").write_text(BLOCKER, encoding="utf-8")
    variables = {"PYTHONPATH": os.pathsep.join([str(block), str(ROOT / "pipeline")])}
    environment = {**os.environ, **variables}
    blocked = subprocess.run([sys.executable, "-c", "import dvc"], env=environment, capture_output=True, text=True)
    assert "dvc is not installed" in blocked.stderr
    return variables


def random_clip(config: dict[str, Any]) -> Any:
    """A real CLIP of open_clip with seeded random weights and OpenAI's normalization."""
    import open_clip
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = open_clip.CLIP(**config)
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    open_clip.set_model_preprocess_cfg(network, {"size": config["vision_cfg"]["image_size"], "mean": mean, "std": std})
    return network


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real CLIP, random and small, in open_clip's local-dir layout."""
    from ovseg.clip.save import save_clip

    folder = tmp_path_factory.mktemp("clip") / "tiny"
    save_clip(random_clip(TINY), TINY, folder)
    return folder


@dataclass(frozen=True)
class Toys:
    """Folders of a CLIP and of a proposal network for its text tower; see `tests.toys`."""

    clip: Path
    network: Path


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Toys:
    """Small real models that tell images and words apart; tests must not write to them."""
    from tests.toys import toy_clip, toy_network

    folder = tmp_path_factory.mktemp("toys")
    clip = toy_clip(folder / "clip")
    return Toys(clip, toy_network(folder / "network", clip))


@pytest.fixture(scope="session")
def tagger() -> str:
    """The demo's tagger, or a real English one; both tag the captions of these tests correctly."""
    for folder in (TAGGER, EWT):
        if (folder / "meta.json").is_file():
            return str(folder)
    pytest.skip("no tagger: neither data/demo/tagger nor ../shared/data/nlp_ewt is there")


@dataclass(frozen=True)
class Coco:
    """Images, captions and masks on disk."""

    images: Path
    captions: Path
    instances: Path


def write_coco(folder: Path, number: int, seed: int = 0) -> Coco:
    """`number` noisy images with two to four rectangles each, and captions that name a part of them."""
    rng = np.random.default_rng(seed)
    images: list[Row] = []
    captions: list[Row] = []
    instances: list[Row] = []
    (folder / "images").mkdir(parents=True)
    for image_id in range(1, number + 1):
        pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        nouns = rng.choice(THINGS, int(rng.integers(2, 5)), replace=False).tolist()
        for noun in nouns:
            x, y = int(rng.integers(0, WIDTH - 20)), int(rng.integers(0, HEIGHT - 20))
            w, h = (int(v) for v in rng.integers(8, 20, 2))
            mask = np.zeros((HEIGHT, WIDTH), bool)
            mask[y : y + h, x : x + w] = True
            pixels[mask] = rng.integers(0, 256, 3)
            instances.append(
                {
                    "id": len(instances) + 1,
                    "image_id": image_id,
                    "category_id": THINGS.index(noun) + 1,
                    "iscrowd": 0,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "segmentation": {"size": [HEIGHT, WIDTH], "counts": masks.encode(mask).decode()},
                }
            )
        Image.fromarray(pixels).save(folder / "images" / f"{image_id:06d}.jpg", quality=90)
        images.append({"id": image_id, "file_name": f"{image_id:06d}.jpg", "width": WIDTH, "height": HEIGHT})
        for k, text in enumerate((f"A {nouns[0]} beside a {nouns[1]} .", f"Two {nouns[1]}s on the grass .")):
            captions.append({"id": image_id * 10 + k, "image_id": image_id, "caption": text})
    categories = [{"id": i, "name": name} for i, name in enumerate(THINGS, start=1)]
    for name, records in (("captions", captions), ("instances", instances)):
        content = {"images": images, "annotations": records, "categories": categories}
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return Coco(folder / "images", folder / "captions.json", folder / "instances.json")


@pytest.fixture(scope="session")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Coco:
    """Six small images, which are one unit of work."""
    return write_coco(tmp_path_factory.mktemp("coco"), 6)


@pytest.fixture(scope="session")
def coco_units(tmp_path_factory: pytest.TempPathFactory) -> Coco:
    """200 small images, which are four units of work."""
    return write_coco(tmp_path_factory.mktemp("coco_units"), 200)


@dataclass(frozen=True)
class Mined:
    """The tables of a run up to the pairs, each in a folder of its step's name."""

    folder: Path
    coco: Coco

    def __getattr__(self, name: str) -> Path:
        return self.folder / name


def mine_tables(coco: Coco, folder: Path, tagger: str, clip: Path, runtime: Runtime) -> Mined:
    """Index, nouns, proposals, candidates and pairs of `coco` in `folder`."""
    from ovseg.core.options import (
        ClipOptions,
        CropOptions,
        IndexOptions,
        NounsOptions,
        ProposeOptions,
        ScoreOptions,
        SelectOptions,
    )
    from ovseg.mining.index import build_index
    from ovseg.mining.nouns import extract_nouns
    from ovseg.mining.propose import propose_masks
    from ovseg.mining.score import score_nouns
    from ovseg.mining.select import select_pairs

    mined = Mined(folder, coco)
    build_index(mined.index, runtime, IndexOptions(images=coco.images, captions=coco.captions))
    extract_nouns(mined.index, mined.nouns, runtime, NounsOptions(model=tagger))
    propose_masks(
        mined.index,
        coco.images,
        mined.proposals,
        runtime,
        ProposeOptions(source="ground_truth", path=coco.instances, annotations=coco.instances),
    )
    score_nouns(
        mined.index,
        coco.images,
        mined.nouns,
        mined.proposals,
        mined.candidates,
        runtime,
        ClipOptions(model=f"local-dir:{clip}"),
        ScoreOptions(),
        CropOptions(),
    )
    select_pairs(mined.candidates, mined.proposals, mined.pairs, runtime, SelectOptions())
    return mined


@pytest.fixture(scope="session")
def mined(coco: Coco, tagger: str, tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Mined:
    """Tables of the six small images; tests must not write to them."""
    runtime = Runtime(workers=1, batch_size=8, work=tmp_path_factory.mktemp("work"))
    return mine_tables(coco, tmp_path_factory.mktemp("mined"), tagger, tiny_clip, runtime)


@pytest.fixture(scope="session")
def mined_units(coco_units: Coco, tagger: str, tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Mined:
    """Tables of the 200 images, in four parts; tests must not write to them."""
    runtime = Runtime(workers=1, batch_size=64, work=tmp_path_factory.mktemp("work"))
    return mine_tables(coco_units, tmp_path_factory.mktemp("mined_units"), tagger, tiny_clip, runtime)


def digests(folder: Path, pattern: str = "*") -> dict[str, str]:
    """The sha256 of every file below a folder by its path."""
    from ovseg.core import hashing

    return {
        str(path.relative_to(folder)): hashing.sha256_file(path)
        for path in sorted(folder.rglob(pattern))
        if path.is_file()
    }
