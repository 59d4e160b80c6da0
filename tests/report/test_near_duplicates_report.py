"""Near-duplicates in the report: numbers, ids, and the images side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ovseg.core import tables
from ovseg.report.near_duplicates import (
    count_near_duplicates,
    near_duplicates_gallery,
    near_duplicates_section,
)
from tests.evaluation.conftest import draw_benchmark
from tests.report.conftest import MadeRun, write_account

Row = dict[str, Any]


def near(image_id: int, benchmark: Path, file: str, distance: int, mirrored: bool = False) -> Row:
    row = {"image_id": image_id, "file": f"{image_id}.png", "benchmark": str(benchmark), "benchmark_file": file}
    return {**row, "mirrored": mirrored, "distance": distance, "similarity": 0.97}


@pytest.fixture
def benchmarks(tmp_path: Path) -> list[Path]:
    """A benchmark of two images, under three names."""
    folder = draw_benchmark(tmp_path / "benchmarks", 2)
    other = folder.with_name("other")
    other.symlink_to(folder)
    return [folder, other, folder.with_name("clean")]


@pytest.fixture
def found(benchmarks: list[Path], tmp_path: Path) -> Path:
    """Images 2 and 3 of the made-up run are near images of two benchmarks; the third has none."""
    folder = tmp_path / "found"
    folder.mkdir()
    first, other, clean = benchmarks
    parts = [[near(2, first, "0.png", 6), near(2, other, "0.png", 6)], [near(3, first, "1.png", 2, mirrored=True)]]
    for part, rows in enumerate(parts):
        tables.write_part(folder / f"{part:05d}.parquet", "near_duplicates", rows, "f")
    write_account(
        folder, images=4, benchmark_images=2, **{f"near.{f}": n for f, n in ((first, 2), (other, 1), (clean, 0))}
    )
    return folder


def test_images_and_their_pairs_are_counted_for_each_benchmark(
    made: MadeRun, benchmarks: list[Path], found: Path
) -> None:
    """Of image 2 there are two pairs, of image 3 one."""
    first, other, clean = map(str, benchmarks)
    assert count_near_duplicates(found, made[0] / "pairs") == {
        clean: {"images": 0, "pairs": 0, "image_ids": []},
        other: {"images": 1, "pairs": 2, "image_ids": [2]},
        first: {"images": 2, "pairs": 3, "image_ids": [2, 3]},
    }


def test_the_table_lists_the_first_ids(made: MadeRun, found: Path) -> None:
    counts = count_near_duplicates(found, made[0] / "pairs")
    first = next(iter(counts))
    counts[first] = {"images": 1234, "pairs": 2000, "image_ids": list(range(1234))}
    _, _, cells = near_duplicates_section(counts)
    assert cells[1] == [first, "1,234", "2,000", "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ..."]
    assert {len(row) for row in cells} == {4} and len(cells) == 4


def test_the_images_are_shown_side_by_side_the_nearest_first(made: MadeRun, found: Path) -> None:
    run, images = made
    gallery = near_duplicates_gallery(found, run / "index", images, 8)
    assert [sheet.name for sheet in gallery.sheets] == ["3.png", "2.png"]
    for sheet in gallery.sheets:
        assert [panel.size for panel in sheet.panels.values()] == [(60, 40), (64, 48)] and not sheet.legend
    assert gallery.sheets[0].caption == "Image 3 (3.png) and 1.png: 2 of 63 bits differ, similarity 0.97, mirrored."
    assert len(near_duplicates_gallery(found, run / "index", images, 1).sheets) == 1


def test_an_image_that_has_gone_is_left_out_and_counted(made: MadeRun, found: Path) -> None:
    """Once as a file, and once as a usable image of the index."""
    run, images = made
    (images / "3.png").unlink()
    gallery = near_duplicates_gallery(found, run / "index", images, 1)
    assert [sheet.name for sheet in gallery.sheets] == ["2.png"]
    assert gallery.text.endswith(" 1 are not shown, because an image has gone.")
    row = tables.read_part(run / "index" / "00000.parquet", "index").to_pylist()[0]
    tables.write_part(run / "index" / "00000.parquet", "index", [row], "f")
    assert near_duplicates_gallery(found, run / "index", images, 1).sheets == []
