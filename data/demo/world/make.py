"""The demo data set on disk, in COCO's own formats, so that nothing downstream knows that it was drawn.

<split>/images/*.jpg
<split>/captions.json            5 captions an image; each also lists its gold nouns, for measuring
<split>/panoptic.json, panoptic/ the annotated half of the nouns: the closed vocabulary
<split>/truth.json               every segment as RLE: for measuring, and as ideal proposals
<split>/<role>/                  benchmarks, see `roles`
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

from data.demo.world.captions import write
from data.demo.world.nouns import nouns
from data.demo.world.roles import write_role
from data.demo.world.scene import Scene, compose
from data.demo.world.wording import Seen
from ovseg.core import masks

SPLITS = ("train", "val", "benchmark")
ROLES = {"train": (), "val": ("all",), "benchmark": ("annotated", "mixed", "novel", "all", "fine")}
FIRST_ID = {"train": 1, "val": 100_001, "benchmark": 200_001}
CAPTIONS = 5
SIDES = (128, 144, 160, 176, 192)
FREQUENT = 3.0  # how much likelier an annotated noun is than another
INFO = {"description": "ovseg demo: drawn images", "version": "1", "contributor": "the ovseg authors, Apache-2.0"}

Record = dict[str, Any]


def make_split(folder: Path, split: str, number: int, seed: int) -> None:
    """Draw `number` images of a split ("train", "val" or "benchmark") into `folder`; the same seed, the same bytes."""
    for name in ("images", "panoptic"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor() as pool:
        made = list(pool.map(partial(_image, folder, split, seed), range(number), chunksize=32))
    images = [m["image"] for m in made]
    categories = _categories()
    annotated = [c for c in categories if c["annotated"]]
    _write(folder / "captions.json", images, (a for m in made for a in m["captions"]))
    _write(folder / "panoptic.json", images, (m["panoptic"] for m in made), annotated)
    segments = [segment for m in made for segment in m["truth"]]
    _write(folder / "truth.json", images, ({"id": i + 1, **s} for i, s in enumerate(segments)), categories)
    for role in ROLES[split]:
        write_role(folder, role, images, _named(segments))


def seen_in(scene: Scene) -> list[Seen]:
    """What a caption can speak of: things of one noun and look are counted together."""
    total = scene.image.shape[0] * scene.image.shape[1]
    found: dict[tuple[str, str | None, str | None], Seen] = {}
    for part in scene.segments:
        key = (part.noun, part.colour, part.pattern)
        before = found.get(key)
        area = float(part.mask.sum()) / total + (before.area if before else 0.0)
        found[key] = Seen(part.noun, part.kind, part.colour, part.pattern, (before.count if before else 0) + 1, area)
    return list(found.values())


def _image(folder: Path, split: str, seed: int, number: int) -> Record:
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
    Image.fromarray(scene.image).save(folder / "images" / f"{name}.jpg", quality=92)
    return {
        "image": {"id": image_id, "file_name": f"{name}.jpg", "width": width, "height": height},
        "captions": [_caption(seen_in(scene), image_id, k, rng) for k in range(CAPTIONS)],
        "panoptic": _panoptic(folder / "panoptic" / f"{name}.png", scene, image_id),
        "truth": [_segment(part, image_id) for part in scene.segments],
    }


def _pick(kind: str, number: int, rng: np.random.Generator, repeat: bool = False) -> list[str]:
    """Distinct nouns, frequent ones more often; with `repeat`, now and then one of them twice."""
    every = [n for n in nouns() if n.kind == kind]
    weight = np.array([FREQUENT if n.annotated else 1.0 for n in every])
    chosen = [every[i].name for i in rng.choice(len(every), number, replace=False, p=weight / weight.sum())]
    return [*chosen, chosen[0]] if repeat and rng.random() < 0.15 else chosen


def _caption(seen: list[Seen], image_id: int, number: int, rng: np.random.Generator) -> Record:
    caption = write(seen, rng)
    gold = [{"noun": n.text, "start": n.start, "end": n.end, "visual": n.visual} for n in caption.nouns]
    return {"image_id": image_id, "id": image_id * 10 + number, "caption": caption.text, "nouns": gold}


def _category(noun: str) -> int:
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
    """COCO's panoptic PNG (id = R + 256 G + 65536 B, 0 is void) and record, with the annotated nouns alone."""
    annotated = {n.name for n in nouns() if n.annotated}
    ids = np.zeros(scene.image.shape[:2], dtype=np.uint8)
    segments = []
    for number, part in enumerate(scene.segments, start=1):
        if part.noun in annotated:
            ids[part.mask] = number
            found = _segment(part, image_id)
            segments.append({"id": number, "iscrowd": 0, **{k: found[k] for k in ("category_id", "bbox", "area")}})
    Image.fromarray(np.stack([ids, np.zeros_like(ids), np.zeros_like(ids)], axis=-1)).save(path)
    return {"image_id": image_id, "file_name": path.name, "segments_info": segments}


def _segment(part: Any, image_id: int) -> Record:
    rle = masks.encode(part.mask)
    size = part.mask.shape
    return {
        "image_id": image_id,
        "category_id": _category(part.noun),
        "isthing": int(part.kind == "thing"),
        "iscrowd": 0,
        "bbox": list(masks.box(rle, *size)),
        "area": masks.area(rle, *size),
        "segmentation": {"size": list(size), "counts": rle.decode("ascii")},
        "colour": part.colour,
        "pattern": part.pattern,
    }


def _named(segments: list[Record]) -> dict[int, list[Record]]:
    """Segments by image as `write_role` takes them."""
    found: dict[int, list[Record]] = {}
    for segment in segments:
        noun = nouns()[segment["category_id"] - 1].name
        rle = segment["segmentation"]["counts"].encode("ascii")
        found.setdefault(segment["image_id"], []).append({"noun": noun, "colour": segment["colour"], "rle": rle})
    return found


def _write(
    path: Path, images: list[Record], annotations: Iterable[Record], categories: list[Record] | None = None
) -> None:
    whole = {"info": INFO, "images": images, "annotations": list(annotations), "categories": categories or []}
    path.write_text(json.dumps(whole) + "\n", encoding="utf-8")
