"""Write the demo data set in COCO's formats, so that the pipeline reads it like any other data set.

<split>/images/*.jpg
<split>/captions.json               5 captions for each image; each lists its gold nouns, too, for measuring
<split>/panoptic.json, panoptic/    masks of the annotated half of the nouns: the closed vocabulary
<split>/truth.json                  every segment as RLE, for measuring and as ideal proposals
<split>/<role>/                     benchmarks, see `roles`
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data.demo.world.captions import write_caption
from data.demo.world.nouns import nouns
from data.demo.world.roles import write_role
from data.demo.world.scene import Scene, Segment, compose
from data.demo.world.wording import Entity
from ovseg.core import masks

SPLITS = ("train", "val", "benchmark")
ROLES = {"train": (), "val": ("all",), "benchmark": ("annotated", "mixed", "novel", "all", "fine")}
FIRST_ID = {"train": 1, "val": 100_001, "benchmark": 200_001}
CAPTIONS = 5
SIDES = (128, 144, 160, 176, 192)
FREQUENT = 3.0  # weight of an annotated noun in an image; the others have weight 1
INFO = {"description": "ovseg demo: drawn images", "version": "1", "contributor": "the ovseg authors, Apache-2.0"}

Record = dict[str, Any]


def make_split(folder: Path, split: str, number: int, seed: int) -> None:
    """Draw one split; the same seed gives the same bytes.

    Args:
        folder: folder of the split; it is created if it does not exist.
        split: one of `SPLITS`.
        number: number of images.
        seed: seed of the whole data set.
    """
    for name in ("images", "panoptic"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor() as pool:
        drawn = list(pool.map(partial(_draw_image, folder, split, seed), range(number), chunksize=32))
    images = [d["image"] for d in drawn]
    categories = _categories()
    annotated = [c for c in categories if c["annotated"]]
    _write_coco(folder / "captions.json", images, (a for d in drawn for a in d["captions"]))
    _write_coco(folder / "panoptic.json", images, (d["panoptic"] for d in drawn), annotated)
    segments = [segment for d in drawn for segment in d["truth"]]
    _write_coco(folder / "truth.json", images, ({"id": i + 1, **s} for i, s in enumerate(segments)), categories)
    for role in ROLES[split]:
        write_role(folder, role, images, _by_image(segments))


def describe(scene: Scene) -> list[Entity]:
    """List the contents of a scene for its captions; things of one noun, color and pattern are counted together."""
    pixels = scene.image.shape[0] * scene.image.shape[1]
    entities: dict[tuple[str, str | None, str | None], Entity] = {}
    for segment in scene.segments:
        key = (segment.noun, segment.colour, segment.pattern)
        before = entities.get(key)
        area = float(segment.mask.sum()) / pixels + (before.area if before else 0.0)
        count = (before.count if before else 0) + 1
        entities[key] = Entity(segment.noun, segment.kind, segment.colour, segment.pattern, count, area)
    return list(entities.values())


def _draw_image(folder: Path, split: str, seed: int, number: int) -> Record:
    rng = np.random.default_rng([seed, SPLITS.index(split), number])
    width, height = (int(side) for side in rng.choice(SIDES, 2))
    scene = compose(
        _pick("thing", int(rng.choice([1, 2, 3, 4], p=[0.25, 0.35, 0.25, 0.15])), rng, repeat=True),
        _pick("stuff", int(rng.choice([1, 2, 3], p=[0.4, 0.45, 0.15])), rng),
        width,
        height,
        rng,
    )
    image_id = FIRST_ID[split] + number
    name = f"{image_id:012d}"
    entities = describe(scene)
    Image.fromarray(scene.image).save(folder / "images" / f"{name}.jpg", quality=92)
    return {
        "image": {"id": image_id, "file_name": f"{name}.jpg", "width": width, "height": height},
        "captions": [_caption(entities, image_id, k, rng) for k in range(CAPTIONS)],
        "panoptic": _panoptic(folder / "panoptic" / f"{name}.png", scene, image_id),
        "truth": [_segment(segment, image_id) for segment in scene.segments],
    }


def _pick(kind: str, number: int, rng: np.random.Generator, repeat: bool = False) -> list[str]:
    """Choose different nouns, annotated ones more often; with `repeat` the first one sometimes comes twice."""
    candidates = [n for n in nouns() if n.kind == kind]
    weight = np.array([FREQUENT if n.annotated else 1.0 for n in candidates])
    chosen = [candidates[i].name for i in rng.choice(len(candidates), number, replace=False, p=weight / weight.sum())]
    return [*chosen, chosen[0]] if repeat and rng.random() < 0.15 else chosen


def _caption(entities: list[Entity], image_id: int, number: int, rng: np.random.Generator) -> Record:
    caption = write_caption(entities, rng)
    gold = [{"noun": n.text, "start": n.start, "end": n.end, "visual": n.visual} for n in caption.nouns]
    return {"image_id": image_id, "id": image_id * 10 + number, "caption": caption.text, "nouns": gold}


def _category_id(noun: str) -> int:
    return next(i for i, n in enumerate(nouns(), start=1) if n.name == noun)


def _categories() -> list[Record]:
    return [
        {
            "id": i,
            "name": n.name,
            "isthing": int(n.kind == "thing"),
            "annotated": n.annotated,
            "synonyms": [name for name, _ in n.synonyms],
        }
        for i, n in enumerate(nouns(), start=1)
    ]


def _panoptic(path: Path, scene: Scene, image_id: int) -> Record:
    """Write COCO's panoptic PNG of the annotated nouns (id = R + 256 G + 65536 B, 0 is void) and return its record."""
    annotated = {n.name for n in nouns() if n.annotated}
    ids = np.zeros(scene.image.shape[:2], dtype=np.uint8)
    segments = []
    for number, segment in enumerate(scene.segments, start=1):
        if segment.noun in annotated:
            ids[segment.mask] = number
            record = _segment(segment, image_id)
            segments.append({"id": number, "iscrowd": 0, **{k: record[k] for k in ("category_id", "bbox", "area")}})
    Image.fromarray(np.stack([ids, np.zeros_like(ids), np.zeros_like(ids)], axis=-1)).save(path)
    return {"image_id": image_id, "file_name": path.name, "segments_info": segments}


def _segment(segment: Segment, image_id: int) -> Record:
    rle = masks.encode(segment.mask)
    size = segment.mask.shape
    return {
        "image_id": image_id,
        "category_id": _category_id(segment.noun),
        "isthing": int(segment.kind == "thing"),
        "iscrowd": 0,
        "bbox": list(masks.box(rle, *size)),
        "area": masks.area(rle, *size),
        "segmentation": {"size": list(size), "counts": rle.decode("ascii")},
        "colour": segment.colour,
        "pattern": segment.pattern,
    }


def _by_image(segments: list[Record]) -> dict[int, list[Record]]:
    """Group segments by image, as `write_role` expects them."""
    grouped: dict[int, list[Record]] = {}
    for segment in segments:
        noun = nouns()[segment["category_id"] - 1].name
        rle = segment["segmentation"]["counts"].encode("ascii")
        grouped.setdefault(segment["image_id"], []).append({"noun": noun, "colour": segment["colour"], "rle": rle})
    return grouped


def _write_coco(
    path: Path, images: list[Record], annotations: Iterable[Record], categories: list[Record] | None = None
) -> None:
    content = {"info": INFO, "images": images, "annotations": list(annotations), "categories": categories or []}
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")
