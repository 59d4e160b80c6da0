"""Copies of a benchmark's images among the mined ones are found, other drawn images are not; their pairs can be left out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from experiments.copies import COPIES as ALL
from ovseg.core import tables
from ovseg.core.errors import OvsegError
from ovseg.core.images import ImageArray
from ovseg.core.options import ClipOptions, IndexOptions, NearDuplicatesOptions
from ovseg.datasets.benchmark import write_benchmark
from ovseg.engine.runtime import Runtime
from ovseg.mining.index import build_index
from ovseg.mining.near_duplicates import find_near_duplicates, near_hashes
from tests.conftest import ROOT
from tests.mining.test_select import TWO, chosen, selected
from tests.scenes import scene

CLIP = ClipOptions(model=f"local-dir:{ROOT / 'data' / 'demo' / 'clip'}")
COPIES = {name: ALL[name] for name in ("JPEG of quality 50", "half the size", "2% of each side cut off", "mirrored")}
NUMBER = len(COPIES)

Row = dict[str, Any]


def benchmark_of(folder: Path, images: Sequence[ImageArray]) -> Path:
    (folder.parent / "images").mkdir(exist_ok=True, parents=True)
    items = []
    for i, pixels in enumerate(images):
        Image.fromarray(pixels).save(folder.parent / "images" / f"{i}.png")
        items.append((f"{i}.png", f"{i}.png", np.zeros(pixels.shape[:2], np.uint8)))
    write_benchmark(folder, folder.parent / "images", [["thing"]], 255, items, seen=None, source="drawn")
    return folder


def index_of(folder: Path, images: Sequence[ImageArray], runtime: Runtime) -> Path:
    """The table `index` of images with the ids 0, 1, ..."""
    (folder / "mined").mkdir(parents=True)
    for i, pixels in enumerate(images):
        Image.fromarray(pixels).save(folder / "mined" / f"{i}.jpg", quality=92)
    records = [{"id": i, "file_name": f"{i}.jpg"} for i in range(len(images))]
    captions = [{"id": i, "image_id": i, "caption": "a scene"} for i in range(len(images))]
    (folder / "captions.json").write_text(json.dumps({"images": records, "annotations": captions}))
    options = IndexOptions(images=folder / "mined", captions=folder / "captions.json")
    build_index(folder / "index", runtime, options)
    return folder / "index"


def found(
    folder: Path, benchmarks: Sequence[Path], runtime: Runtime, **options: Any
) -> tuple[list[Row], dict[str, int]]:
    counts = find_near_duplicates(
        folder / "index",
        folder / "mined",
        benchmarks,
        folder / "found",
        runtime,
        CLIP,
        NearDuplicatesOptions(**options),
    )
    return list(tables.rows(folder / "found", "near_duplicates")), counts


@pytest.fixture
def mined(tmp_path: Path, runtime: Runtime) -> Path:
    """Mined images: one copy of each kind of the benchmark's first images, then as many others."""
    copies = [copy(scene(i)) for i, copy in enumerate(COPIES.values())]
    index_of(tmp_path, [*copies, *(scene(100 + i) for i in range(NUMBER))], runtime)
    return tmp_path


def test_copies_of_a_benchmark_are_found_and_other_images_are_not(mined: Path, runtime: Runtime) -> None:
    folder = benchmark_of(mined / "drawn" / "all", [scene(i) for i in range(2 * NUMBER)])
    rows, counts = found(mined, [folder], runtime)
    assert [(row["image_id"], row["benchmark_file"]) for row in rows] == [(i, f"{i}.png") for i in range(NUMBER)]
    assert [row["mirrored"] for row in rows] == [name == "mirrored" for name in COPIES]
    assert all(row["distance"] <= 12 and row["similarity"] >= 0.85 for row in rows)
    assert {row["benchmark"] for row in rows} == {str(folder)} and rows[0]["file"] == "0.jpg"
    assert counts["images"] == counts["benchmark_images"] == 2 * NUMBER
    assert counts["near_duplicates"] == counts[f"near.{folder}"] == NUMBER


def test_a_benchmark_without_copies_is_counted_as_such(mined: Path, runtime: Runtime) -> None:
    folder = benchmark_of(mined / "drawn" / "all", [scene(50), scene(51)])
    rows, counts = found(mined, [folder], runtime)
    assert rows == [] and counts["near_duplicates"] == counts[f"near.{folder}"] == 0


def test_benchmarks_that_share_images_have_a_row_each(mined: Path, runtime: Runtime) -> None:
    folders = [benchmark_of(mined / "drawn" / name, [scene(0)]) for name in ("fine", "all")]
    rows, counts = found(mined, folders, runtime)
    assert {row["benchmark"] for row in rows} == set(map(str, folders)) and len(rows) == 2
    assert counts["benchmark_images"] == 1 == counts["near_duplicates"]


def test_a_benchmark_that_is_named_twice_counts_once(mined: Path, runtime: Runtime) -> None:
    """As one that calibrates and is evaluated, too."""
    folder = benchmark_of(mined / "drawn" / "all", [scene(0)])
    rows, counts = found(mined, [folder, folder], runtime)
    assert len(rows) == 1 == counts[f"near.{folder}"]


def test_clip_refuses_what_only_the_hash_finds(mined: Path, runtime: Runtime) -> None:
    """Any two images are near for a hash that may differ in all bits."""
    folder = benchmark_of(mined / "drawn" / "all", [scene(i) for i in range(NUMBER)])
    rows, _ = found(mined, [folder], runtime, max_distance=63)
    assert {(row["image_id"], row["benchmark_file"]) for row in rows} == {(i, f"{i}.png") for i in range(NUMBER)}


def test_a_changed_image_of_a_benchmark_is_compared_anew(mined: Path, runtime: Runtime) -> None:
    folder = benchmark_of(mined / "drawn" / "all", [scene(50)])
    assert found(mined, [folder], runtime)[0] == []
    benchmark_of(folder, [scene(0)])
    assert len(found(mined, [folder], Runtime(work=runtime.work, replace=True))[0]) == 1


def test_an_image_of_a_benchmark_that_cannot_be_read_is_named(mined: Path, runtime: Runtime) -> None:
    folder = benchmark_of(mined / "drawn" / "all", [scene(0)])
    (mined / "drawn" / "images" / "0.png").write_bytes(b"broken")
    with pytest.raises(OvsegError, match=r"0\.png of benchmark .*all cannot be read"):
        found(mined, [folder], runtime)


def test_a_mined_image_that_has_gone_is_dropped_and_counted(mined: Path, runtime: Runtime) -> None:
    folder = benchmark_of(mined / "drawn" / "all", [scene(i) for i in range(NUMBER)])
    (mined / "mined" / "1.jpg").unlink()
    rows, counts = found(mined, [folder], runtime)
    assert [row["image_id"] for row in rows] == [0, *range(2, NUMBER)] and counts["dropped.missing"] == 1


def test_the_nearer_of_image_and_mirror_image_counts() -> None:
    hashes, references = np.array([0b0011, 0b1100], np.uint64), np.array([0b0011, 0b1100, 0b0001, 0b111111], np.uint64)
    assert near_hashes(hashes, references, 1) == [(0, False, 0), (1, True, 0), (2, False, 1)]
    assert len(near_hashes(hashes, references, 4)) == 4


def near_table(folder: Path, image_ids: Sequence[int]) -> Path:
    folder.mkdir()
    tables.write_part(folder / "00000.parquet", "near_duplicates", [{"image_id": i} for i in image_ids], "f")
    return folder


def test_select_leaves_out_all_pairs_of_these_images(tmp_path: Path, runtime: Runtime) -> None:
    near = near_table(tmp_path / "near", [1])
    rows, counts = selected(tmp_path, [TWO], runtime, near_duplicates=near)
    assert chosen(rows) == {(2, "dog", 0)} and counts == {"pairs": 1, "dropped.near_duplicate": 2}


def test_select_leaves_out_their_annotated_masks_too(tmp_path: Path, runtime: Runtime) -> None:
    near = near_table(tmp_path / "near", [0])
    options: Row = {"annotated_fraction": 1.0}
    assert len(selected(tmp_path, [TWO[:1], TWO[4:]], runtime, ["sky"], **options)[0]) == 2
    rows, _ = selected(tmp_path, [TWO[:1], TWO[4:]], runtime, ["sky"], near_duplicates=near, **options)
    assert [row["image_id"] for row in rows] == [1]


def test_without_such_images_the_pairs_are_the_same_ones(tmp_path: Path, runtime: Runtime) -> None:
    without, _ = selected(tmp_path, [TWO], runtime)
    assert selected(tmp_path, [TWO], runtime, near_duplicates=near_table(tmp_path / "near", []))[0] == without
