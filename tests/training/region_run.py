"""The tables of a small mining run on disk: images of noise, each with two annotated masks and four proposals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ovseg.core import masks, tables
from ovseg.training.region_training import RunFolders

IMAGES, HEIGHT, WIDTH = 8, 40, 48
HALVES = {"sky": (0, 24), "sea": (24, 48)}  # the columns of the annotated masks
PROPOSALS = ((0, 22), (24, 48), (10, 34), (46, 48))  # the columns of the proposals
NOUNS = ("kite", "boat", "star")


def proposal_row(image_id: int, number: int, columns: tuple[int, int], label: str | None = None) -> dict[str, Any]:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[:, slice(*columns)] = True
    rle = masks.encode(mask)
    return {
        "image_id": image_id,
        "proposal": number,
        "rle": rle,
        "height": HEIGHT,
        "width": WIDTH,
        "box": list(masks.box(rle, HEIGHT, WIDTH)),
        "area": int(mask.sum()),
        "score": 1.0,
        "source": "proposal_network" if label is None else "annotated",
        "label": label,
    }


def rows_of_proposals(image_id: int) -> list[dict[str, Any]]:
    proposed = [proposal_row(image_id, i, columns) for i, columns in enumerate(PROPOSALS)]
    named = [proposal_row(image_id, 4 + i, HALVES[label], label) for i, label in enumerate(HALVES)]
    return proposed + named


def rows_of_pairs(image_id: int) -> list[dict[str, Any]]:
    noun = NOUNS[image_id % len(NOUNS)]
    return [{"pair": image_id, "part": 0, "image_id": image_id, "noun": noun, "proposal": image_id % 3, "area": 1}]


def write_run(folder: Path, pairs: bool = True, annotated: bool = True) -> RunFolders:
    """Write index, proposals and pairs in one part each, the last two perhaps without pairs or annotated masks."""
    run = RunFolders(folder / "index", folder / "proposals", folder / "pairs", folder / "images")
    for path in (run.index, run.proposals, run.pairs, run.images):
        path.mkdir(parents=True)
    index = []
    for image_id in range(IMAGES):
        pixels = np.random.default_rng(image_id).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        path = run.images / f"{image_id}.png"
        Image.fromarray(pixels).save(path)
        index.append(
            {
                "image_id": image_id,
                "file": path.name,
                "offset": 0,
                "size": path.stat().st_size,
                "width": WIDTH,
                "height": HEIGHT,
                "exif_orientation": 1,
                "orientation": "exif",
            }
        )
    numbers = range(IMAGES)
    tables.write_part(run.index / "00000.parquet", "index", index, "f")
    proposals = [r for number in numbers for r in rows_of_proposals(number) if annotated or r["label"] is None]
    tables.write_part(run.proposals / "00000.parquet", "proposals", proposals, "f")
    mined = [row for number in numbers for row in rows_of_pairs(number)] if pairs else []
    tables.write_part(run.pairs / "00000.parquet", "pairs", mined, "f")
    return run
