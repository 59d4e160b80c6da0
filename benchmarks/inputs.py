"""What benchmarks are run on: real images, captions and masks where there are some, generated ones elsewhere.

`OVSEG_BENCH_DATA` (default: ../shared/data beside the repository) is a folder with any of

    minicoco/images, minicoco/captions.json, minicoco/segments_from_panoptic.json   COCO images, captions, RLE masks
    captions/captions_val2017.json                                                  COCO captions
    nlp_ewt                                                                         a spaCy pipeline

What is missing is made up: JPEGs of noise with blobs for masks, captions from a few patterns; the demo's tagger serves.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.demo.world.nouns import nouns
from ovseg.core import masks

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("OVSEG_BENCH_DATA") or ROOT.parent / "shared" / "data")
HELP = "Real images and captions are looked for in $OVSEG_BENCH_DATA, see benchmarks/inputs.py."
TAGGERS = (DATA / "nlp_ewt", ROOT / "data" / "demo" / "tagger")

MADE_SIZE, MADE_MASKS = (480, 640), 11  # of generated images, as COCO's have on average

Record = dict[str, Any]


class Images(NamedTuple):
    """A folder of images with captions and masks in COCO's format; `real` says whether they are photographs."""

    images: Path
    captions: Path
    masks: Path
    number: int
    real: bool


def tagger() -> str:
    """A spaCy pipeline on this disk.

    Raises:
        SystemExit: if there is none.
    """
    for folder in TAGGERS:
        if (folder / "meta.json").is_file():
            return str(folder)
    raise SystemExit("no spaCy pipeline in data/demo/tagger (part of the repository) or $OVSEG_BENCH_DATA/nlp_ewt")


def captions(number: int) -> tuple[list[str], str]:
    """That many captions, and where they are from."""
    for path, name in (
        (DATA / "captions" / "captions_val2017.json", "COCO val2017"),
        (ROOT / "data" / "demo" / "train" / "captions.json", "demo"),
    ):
        if path.is_file():
            records = json.loads(path.read_text(encoding="utf-8"))["annotations"]
            return [record["caption"] for record in records[:number]], name
    rng = np.random.default_rng(0)
    return [_sentence(rng) for _ in range(number)], "generated"


def images(folder: Path, number: int, copies: int = 1) -> Images:
    """`number` images with masks, each `copies` times under ids of their own, in a new `folder`.

    Files are hard-linked where possible.
    """
    real = (DATA / "minicoco" / "segments_from_panoptic.json").is_file()
    source = DATA / "minicoco" if real else _generate(folder / "made", number)
    said, regions = (_by_image(source / name) for name in ("captions.json", "segments_from_panoptic.json"))
    whole = json.loads((source / "captions.json").read_text(encoding="utf-8"))
    chosen = [image for image in whole["images"] if regions[image["id"]] and said[image["id"]]][:number]
    (folder / "images").mkdir(parents=True)
    images: list[Record] = []
    texts: list[Record] = []
    segments: list[Record] = []
    for image in (image for _ in range(copies) for image in chosen):
        new = {"image_id": len(images) + 1}
        name = f"{new['image_id']:012d}.jpg"
        _link(source / "images" / image["file_name"], folder / "images" / name)
        images.append({**image, "id": new["image_id"], "file_name": name})
        texts += ({**record, **new, "id": len(texts) + i} for i, record in enumerate(said[image["id"]]))
        segments += ({**record, **new, "id": len(segments) + i} for i, record in enumerate(regions[image["id"]]))
    captions_ = _write(folder / "captions.json", images, texts)
    return Images(folder / "images", captions_, _write(folder / "masks.json", images, segments), len(images), real)


def _by_image(path: Path) -> dict[int, list[Record]]:
    found: dict[int, list[Record]] = defaultdict(list)
    for record in json.loads(path.read_text(encoding="utf-8"))["annotations"]:
        found[record["image_id"]].append(record)
    return found


def _write(path: Path, images: list[Record], annotations: list[Record]) -> Path:
    numbers = sorted({record["category_id"] for record in annotations if "category_id" in record})
    categories = [{"id": number, "name": str(number)} for number in numbers]
    whole = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(whole), encoding="utf-8")
    return path


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or not ours
        shutil.copyfile(source, target)


def _generate(folder: Path, number: int) -> Path:
    """Images that cost about as much to decode and cut as photographs: noise of every scale, blobs for masks."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    height, width = MADE_SIZE
    images: list[Record] = []
    texts: list[Record] = []
    segments: list[Record] = []
    for image_id in range(1, number + 1):
        name = f"{image_id:012d}.jpg"
        pixels = np.stack([_noise(rng) for _ in range(3)], axis=-1)
        Image.fromarray(np.round(255 * pixels).astype(np.uint8)).save(folder / "images" / name, quality=92)
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        texts += [{"image_id": image_id, "id": 5 * image_id + i, "caption": _sentence(rng)} for i in range(5)]
        for mask in _blobs(rng):
            rle = {"size": [height, width], "counts": masks.encode(mask).decode("ascii")}
            new = {"id": len(segments) + 1, "image_id": image_id, "category_id": 1, "iscrowd": 0}
            segments.append({**new, "segmentation": rle})
    _write(folder / "captions.json", images, texts)
    _write(folder / "segments_from_panoptic.json", images, segments)
    return folder


def _noise(rng: np.random.Generator) -> NDArray[np.float64]:
    """Noise `[H, W]` in [0, 1] with the falling spectrum of photographs."""
    height, width = MADE_SIZE
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]) + 1 / max(MADE_SIZE)
    spectrum = rng.standard_normal((*frequency.shape, 2)) @ np.array([1, 1j]) / frequency**1.2
    field: NDArray[np.float64] = np.fft.irfft2(spectrum, MADE_SIZE)
    low, high = np.quantile(field, (0.01, 0.99))
    return np.asarray(np.clip((field - low) / (high - low), 0, 1))


def _blobs(rng: np.random.Generator) -> list[NDArray[np.bool_]]:
    """The image divided into ragged regions, as panoptic masks divide it."""
    height, width = MADE_SIZE
    rows, columns = np.mgrid[:height, :width]
    centres = rng.random((MADE_MASKS, 2)) * MADE_SIZE
    reach = 0.2 * width * rng.random(MADE_MASKS)
    ragged = 0.3 * width * _noise(rng)
    distances = [np.hypot(rows - y, columns - x + ragged) - r for (y, x), r in zip(centres, reach, strict=True)]
    owner = np.argmin(distances, axis=0)
    return [owner == number for number in np.unique(owner)]


def _sentence(rng: np.random.Generator) -> str:
    one, two, three = (noun.name for noun in rng.choice(np.array(nouns(), dtype=object), 3, replace=False))
    forms = (
        f"A {one} stands next to a {two}.",
        f"A photo of a large {one} and some {two} near the {three}.",
        f"There is a {one} with a small {two}, and a {three} behind it.",
    )
    return str(forms[int(rng.integers(len(forms)))])
