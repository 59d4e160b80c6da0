"""MadeRun-up runs, small enough to read: two parts, four images, a handful of pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovseg.core import masks, tables
from ovseg.core.files import write_json

WIDTH, HEIGHT = 60, 40
EVIL = "a <script>document.title = 'owned'</script> dog & </script><!-- \U0001f415 dog"

Row = dict[str, Any]
MadeRun = tuple[Path, Path]
"""A run's folder, and the folder of its images."""

CAPTIONS = {1: EVIL, 2: "two cats on a mat", 3: "a red bus", 4: "a cat again"}
BOXES = ((5, 5, 20, 20), (30, 10, 24, 24))  # x, y, width, height of the two masks of every image


def rectangle(x: int, y: int, width: int, height: int) -> bytes:
    """RLE of a rectangle in an image of the tests' size."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[y : y + height, x : x + width] = True
    return masks.encode(mask)


def pair(number: int, image_id: int, noun: str, proposal: int, similarity: float | None, written: str = "") -> Row:
    """A row of the table `pairs`; `written` is how the noun is written in the caption, if it differs."""
    text = CAPTIONS[image_id]
    start = text.rindex(written or noun) if similarity is not None else None
    return {
        "pair": number,
        "part": (image_id - 1) // 2,
        "image_id": image_id,
        "noun": noun,
        "caption_id": None if start is None else 10 * image_id,
        "start": start,
        "end": None if start is None else start + len(written or noun),
        "proposal": proposal,
        "similarity": similarity,
        "margin": None if similarity is None else 0.01 * number,
        "p_proposal": None,
        "p_noun": None,
        "area": BOXES[proposal][2] * BOXES[proposal][3],
        "source": "ground_truth" if start is not None else "annotated",
    }


PAIRS = (
    pair(0, 3, "bus", 0, 0.31),
    pair(1, 4, "cat", 1, 0.24),
    pair(2, 2, "cat", 0, 0.27, written="cats"),
    pair(3, 2, "mat", 1, 0.18),
    pair(4, 1, "dog", 0, 0.12),
    pair(5, 1, "wall", 1, None),
)


def write_account(folder: Path, **counts: int) -> None:
    """What a step leaves in its folder about what it kept and dropped ("dropped_x" stands for "dropped.x")."""
    named = {name.replace("dropped_", "dropped."): n for name, n in counts.items()}
    write_json(folder / tables.STEP_MANIFEST, {"fingerprint": "f", "counts": named, "files": {}})


def write_pairs(folder: Path, rows: list[Row]) -> Path:
    """A table `pairs` of one part."""
    folder.mkdir(parents=True, exist_ok=True)
    tables.write_part(folder / "00000.parquet", "pairs", rows, "f")
    return folder


@pytest.fixture
def made(tmp_path: Path) -> MadeRun:
    """A run whose tables are in two parts, with its images."""
    run, images = tmp_path / "run", tmp_path / "images"
    for folder in (images, *(run / name for name in ("index", "nouns", "proposals", "candidates", "shards"))):
        folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, image_ids in enumerate(((1, 2), (3, 4))):
        name = f"{part:05d}.parquet"
        for image_id in image_ids:
            pixels = rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(images / f"{image_id}.png")
        tables.write_part(run / "index" / name, "index", [_image(images, i) for i in image_ids], "f")
        regions = [_region(i, n) for i in image_ids for n in range(2)]
        tables.write_part(run / "proposals" / name, "proposals", regions, "f")
        part_pairs = [p for p in PAIRS if p["image_id"] in image_ids and p["caption_id"] is not None]
        tables.write_part(run / "nouns" / name, "nouns", [_chosen(p, tables.NOUNS.names) for p in part_pairs], "f")
        ranked = [{**p, "rank": 0} for p in part_pairs]
        tables.write_part(
            run / "candidates" / name, "candidates", [_chosen(p, tables.CANDIDATES.names) for p in ranked], "f"
        )
    write_pairs(run / "pairs", list(PAIRS))
    write_account(run / "index", images=4, captions=4, dropped_missing=1)
    write_account(run / "nouns", captions=4, nouns=5, dropped_stop_noun=3, dropped_repeated=2)
    write_account(run / "proposals", images=4, proposals=8)
    write_account(run / "candidates", images=4, nouns=5, crops=8)
    write_account(run / "pairs", pairs=6, annotated_pairs=1)
    write_account(run / "shards", samples=6, shards=2)
    return run, images


def _chosen(row: Row, names: list[str]) -> Row:
    return {name: row[name] for name in names}


def _image(images: Path, image_id: int) -> Row:
    size = (images / f"{image_id}.png").stat().st_size
    return {
        "image_id": image_id,
        "file": f"{image_id}.png",
        "offset": 0,
        "size": size,
        "sha256": "",
        "width": WIDTH,
        "height": HEIGHT,
        "problem": None,
        "detail": None,
        "captions": [{"id": 10 * image_id, "text": CAPTIONS[image_id]}, {"id": 10 * image_id + 1, "text": "another"}],
    }


def _region(image_id: int, number: int) -> Row:
    rle = rectangle(*BOXES[number])
    return {
        "image_id": image_id,
        "proposal": number,
        "rle": rle,
        "height": HEIGHT,
        "width": WIDTH,
        "box": list(BOXES[number]),
        "area": masks.area(rle, HEIGHT, WIDTH),
        "score": 1.0,
        "source": "ground_truth",
        "label": None,
    }
