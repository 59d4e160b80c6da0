"""Stored region embeddings: no region is encoded twice, no result changes, and nothing out of date is read."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ovseg.clip.embedding_files import FOLDER
from ovseg.core import tables
from ovseg.core.options import CropOptions, SegmentOptions
from ovseg.engine.runtime import Runtime
from ovseg.evaluation.evaluate import evaluate
from ovseg.evaluation.region_store import RegionStore, encoder_keys
from ovseg.evaluation.settings import three_classifiers
from tests.conftest import Toys
from tests.evaluation.conftest import NAMES, draw_benchmark
from tests.toys import noise

OPTIONS = SegmentOptions(templates="single")


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    return draw_benchmark(tmp_path / "drawn", 2)


def run(benchmark: Path, toys: Toys, work: Path, out: Path, **changes: Any) -> list[dict[str, Any]]:
    options = {"options": OPTIONS, "crop": CropOptions(), "oracles": False, **changes}
    settings = three_classifiers("clip", 0.4, 0.7)
    evaluate(
        benchmark,
        toys.network,
        {"clip": toys.clip},
        out,
        Runtime(workers=1, work=work, fresh=True),
        settings,
        **options,
    )
    return list(tables.rows(out, "segmentations"))


def stored(work: Path) -> dict[str, int]:
    """The files of embeddings and when they were written."""
    return {str(path): path.stat().st_mtime_ns for path in (work / FOLDER).rglob("*.npy")}


def test_other_names_templates_and_weights_encode_no_region_again(benchmark: Path, toys: Toys, tmp_path: Path) -> None:
    run(benchmark, toys, tmp_path / "work", tmp_path / "first")
    first = stored(tmp_path / "work")
    assert len(first) == 2
    metadata = json.loads((benchmark / "benchmark.json").read_text())
    metadata["names"] = [[name, f"small {name}"] for name in NAMES]
    (benchmark / "benchmark.json").write_text(json.dumps(metadata))
    other = SegmentOptions(templates="none", weight_seen=0.2, seen_penalty=0.3)
    run(benchmark, toys, tmp_path / "work", tmp_path / "second", options=other)
    assert stored(tmp_path / "work") == first


def test_stored_embeddings_change_no_result(benchmark: Path, toys: Toys, tmp_path: Path) -> None:
    computed = run(benchmark, toys, tmp_path / "work", tmp_path / "computed", oracles=True)
    read = run(benchmark, toys, tmp_path / "work", tmp_path / "read", oracles=True)
    alone = run(benchmark, toys, tmp_path / "elsewhere", tmp_path / "alone", oracles=True)
    assert computed == read == alone


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"no array"])
def test_a_damaged_file_is_encoded_again(
    benchmark: Path, toys: Toys, tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    computed = run(benchmark, toys, tmp_path / "work", tmp_path / "computed")
    path = sorted((tmp_path / "work" / FOLDER).rglob("*.npy"))[0]
    before = path.read_bytes()
    path.write_bytes(damage)
    with caplog.at_level(logging.WARNING, "ovseg"):
        assert run(benchmark, toys, tmp_path / "work", tmp_path / "again") == computed
    assert path.read_bytes() == before
    assert str(path) in caplog.text


def test_embeddings_belong_to_the_pixels_the_masks_and_the_encoder(tmp_path: Path) -> None:
    calls: list[str] = []

    def embed(name: str, number: int) -> Callable[[], Tensor]:
        def compute() -> Tensor:
            calls.append(name)
            return torch.full((number, 3), float(len(calls)))

        return compute

    store = RegionStore(tmp_path, {"a": "1", "b": "2"})
    pixels = noise(0)
    same = store.embeddings("a", pixels, [b"x", None], embed("first", 1))
    assert torch.equal(store.embeddings("a", pixels.copy(), [b"x", None], embed("again", 1)), same)
    changed = pixels.copy()
    changed[0, 0, 0] ^= 1
    store.embeddings("a", changed, [b"x", None], embed("pixels", 1))
    store.embeddings("a", pixels, [None, b"x"], embed("order", 1))
    store.embeddings("a", pixels, [b"y", None], embed("mask", 1))
    store.embeddings("a", pixels.transpose(1, 0, 2), [b"x", None], embed("transposed", 1))
    store.embeddings("b", pixels, [b"x", None], embed("encoder", 1))
    assert store.embeddings("a", pixels, [None], embed("none", 0)).shape == (0, 3)
    assert calls == ["first", "pixels", "order", "mask", "transposed", "encoder", "none"]
    assert not list(tmp_path.rglob("*.tmp"))


def test_an_encoder_is_its_weights_view_precision_recipe_and_kind_of_device(toys: Toys, tmp_path: Path) -> None:
    def key(clips: Mapping[str, Path] | None = None, device: str = "cpu", **options: Any) -> str:
        crop = CropOptions(fill=options.pop("fill", "mean"))
        return encoder_keys(clips or {"clip": toys.clip}, SegmentOptions(**options), crop, device)["clip"]

    copied = tmp_path / "clip"
    copied.mkdir()
    for file in toys.clip.iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    assert key({"clip": copied}) == key()
    weights = copied / "open_clip_model.safetensors"
    data = np.frombuffer(weights.read_bytes(), np.uint8).copy()
    data[-1] ^= 1
    weights.write_bytes(data.tobytes())
    others = [
        key({"clip": copied}),
        key(device="cuda:1"),
        key(view="mask"),
        key(precision="bf16" if SegmentOptions().precision == "fp32" else "fp32"),
        key(fill="zero"),
    ]
    assert len({key(), *others}) == 6
    assert key(device="cuda:0") == key(device="cuda:1")
    assert key(templates="none", weight_seen=0.5, seen_penalty=0.1) == key()
