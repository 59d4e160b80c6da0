"""Masks of another model as a source: COCO results and tables of proposals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ovseg.core import masks, tables
from ovseg.core.errors import OvsegError
from ovseg.core.image_records import ImageRecord
from ovseg.proposals.precomputed import precomputed
from tests.proposals.coco_files import IMAGE, LEFT, RIGHT, H, W, pixels, rle, split


def results(folder: Path) -> Path:
    scores = [0.2, 0.9, 0.5]
    rows = [{"image_id": 3, "category_id": 1, "score": s, "segmentation": rle(LEFT)} for s in scores]
    broken = [{"image_id": 3, "score": 1.0, "segmentation": {"size": [H, W], "counts": "o"}}] * 2
    (folder / "r.json").write_text(json.dumps([*broken, *rows, {"image_id": 9, "segmentation": rle(RIGHT)}]))
    return folder / "r.json"


def parquet(folder: Path) -> Path:
    (folder / "table").mkdir()
    for number, (image_id, scores) in enumerate(((3, (0.2, 0.9, 0.5)), (9, (0.7,)))):
        rows = [
            {"image_id": image_id, "rle": masks.encode(LEFT), "height": H, "width": W, "score": s, "label": "x"}
            for s in scores
        ]
        rows += [{**rows[0], "rle": b"o"}] * 2
        tables.write_part(folder / "table" / f"{number:05d}.parquet", "proposals", rows, "f")
    return folder / "table"


@pytest.mark.parametrize("write", [results, parquet])
def test_masks_come_best_first(write: Callable[[Path], Path], tmp_path: Path) -> None:
    """Sorted by score, at most as many as requested; malformed ones do not count, and classes are dropped."""
    path = write(tmp_path)
    proposals, reasons = split(precomputed(path, tmp_path / "s", 2)(IMAGE))
    assert [p.score for p in proposals] == pytest.approx([0.9, 0.5]) and [p.label for p in proposals] == [None, None]
    assert reasons == ["rle_malformed"] * 2 and np.array_equal(pixels(proposals[0]), LEFT)
    assert split(precomputed(path, tmp_path / "s", 9)(ImageRecord(Path(), 4, "b.jpg", 0, 0, W, H))) == ([], [])


def test_a_single_part_is_a_table_too(tmp_path: Path) -> None:
    path = parquet(tmp_path) / "00000.parquet"
    assert len(split(precomputed(path, tmp_path / "s", 9)(IMAGE))[0]) == 3


def test_annotated_masks_of_an_earlier_run_are_no_proposals(tmp_path: Path) -> None:
    """They stand in the same table; an image that has nothing else has no proposals."""
    row = {"rle": masks.encode(LEFT), "height": H, "width": W}
    rows = [
        {**row, "image_id": 3, "score": 1.0, "source": "annotated", "label": "dog"},
        {**row, "image_id": 3, "score": 0.5, "source": "proposal_network"},
        {**row, "image_id": 4, "score": 1.0, "source": "annotated", "label": "dog"},
    ]
    tables.write_part(tmp_path / "00000.parquet", "proposals", rows, "f")
    source = precomputed(tmp_path / "00000.parquet", tmp_path / "s", 9)
    assert [proposal.score for proposal in split(source(IMAGE))[0]] == [0.5]
    assert split(source(ImageRecord(Path(), 4, "b.jpg", 0, 0, W, H))) == ([], [])


def test_another_table_is_refused(tmp_path: Path) -> None:
    tables.write_part(tmp_path / "x.parquet", "nouns", [], "f")
    for path in (tmp_path, tmp_path / "x.parquet"):
        with pytest.raises(OvsegError, match="'proposals'"):
            precomputed(path, tmp_path / "s", 9)
