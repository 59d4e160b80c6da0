"""The data of benchmarks: real images, captions and masks if there are any, otherwise generated ones.

`OVSEG_BENCH_DATA` (default: ../shared/data beside the repository) is a folder with any of

    minicoco/images, minicoco/captions.json, minicoco/segments_from_panoptic.json   COCO images, captions, RLE masks
    captions/captions_val2017.json                                                  COCO captions
    nlp_ewt                                                                         a spaCy pipeline

What is missing is generated: JPEGs of noise with blobs as masks, captions from a few patterns; the tagger is the demo's.
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

GENERATED_SIZE, GENERATED_MASKS = (480, 640), 11  # of an image, the averages of COCO

Record = dict[str, Any]


class Images(NamedTuple):
    """Images with captions and masks in COCO's formats.

    Attributes:
        images: folder of the images.
        captions: captions JSON.
        masks: instances JSON.
        number: number of images.
        real: True for photographs, False for generated images.
    """

    images: Path
    captions: Path
    masks: Path
    number: int
    real: bool


def tagger() -> str:
    """Find a spaCy pipeline on this machine.

    Raises:
        SystemExit: there is none.
    """
    for folder in TAGGERS:
        if (folder / "meta.json").is_file():
            return str(folder)
    raise SystemExit("no spaCy pipeline in data/demo/tagger (part of the repository) or $OVSEG_BENCH_DATA/nlp_ewt")


def captions(number: int) -> tuple[list[str], str]:
    """Return at most `number` captions, and the name of their data set."""
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
    """Write a data set of images with masks to a new folder; files are hard-linked if possible.

    Args:
        folder: the new folder.
        number: largest number of different images.
        copies: number of copies of each image, with different ids.
    """
    real = (DATA / "minicoco" / "segments_from_panoptic.json").is_file()
    source = DATA / "minicoco" if real else _generate(folder / "generated", number)
    texts_of, masks_of = (_by_image(source / name) for name in ("captions.json", "segments_from_panoptic.json"))
    content = json.loads((source / "captions.json").read_text(encoding="utf-8"))
    chosen = [image for image in content["images"] if masks_of[image["id"]] and texts_of[image["id"]]][:number]
    (folder / "images").mkdir(parents=True)
    images: list[Record] = []
    texts: list[Record] = []
    segments: list[Record] = []
    for image in (image for _ in range(copies) for image in chosen):
        new = {"image_id": len(images) + 1}
        name = f"{new['image_id']:012d}.jpg"
        _link(source / "images" / image["file_name"], folder / "images" / name)
        images.append({**image, "id": new["image_id"], "file_name": name})
        texts += ({**record, **new, "id": len(texts) + i} for i, record in enumerate(texts_of[image["id"]]))
        segments += ({**record, **new, "id": len(segments) + i} for i, record in enumerate(masks_of[image["id"]]))
    captions_path = _write(folder / "captions.json", images, texts)
    masks_path = _write(folder / "masks.json", images, segments)
    return Images(folder / "images", captions_path, masks_path, len(images), real)


def _by_image(path: Path) -> dict[int, list[Record]]:
    by_image: dict[int, list[Record]] = defaultdict(list)
    for record in json.loads(path.read_text(encoding="utf-8"))["annotations"]:
        by_image[record["image_id"]].append(record)
    return by_image


def _write(path: Path, images: list[Record], annotations: list[Record]) -> Path:
    numbers = sorted({record["category_id"] for record in annotations if "category_id" in record})
    categories = [{"id": number, "name": str(number)} for number in numbers]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # the source is on another disk or belongs to another user
        shutil.copyfile(source, target)


def _generate(folder: Path, number: int) -> Path:
    """Generate images that take about as long to decode and crop as photographs: noise at all scales, blobs as masks."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    height, width = GENERATED_SIZE
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
    """Return noise `[H, W]` in [0, 1] with a spectrum like that of photographs."""
    height, width = GENERATED_SIZE
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]) + 1 / max(GENERATED_SIZE)
    spectrum = rng.standard_normal((*frequency.shape, 2)) @ np.array([1, 1j]) / frequency**1.2
    field: NDArray[np.float64] = np.fft.irfft2(spectrum, GENERATED_SIZE)
    low, high = np.quantile(field, (0.01, 0.99))
    return np.asarray(np.clip((field - low) / (high - low), 0, 1))


def _blobs(rng: np.random.Generator) -> list[NDArray[np.bool_]]:
    """Divide the image into irregular regions, as panoptic masks do."""
    height, width = GENERATED_SIZE
    rows, columns = np.mgrid[:height, :width]
    centres = rng.random((GENERATED_MASKS, 2)) * GENERATED_SIZE
    reach = 0.2 * width * rng.random(GENERATED_MASKS)
    ragged = 0.3 * width * _noise(rng)
    distances = [np.hypot(rows - y, columns - x + ragged) - r for (y, x), r in zip(centres, reach, strict=True)]
    owner = np.argmin(distances, axis=0)
    return [owner == number for number in np.unique(owner)]


def _sentence(rng: np.random.Generator) -> str:
    first, second, third = (noun.name for noun in rng.choice(np.array(nouns(), dtype=object), 3, replace=False))
    forms = (
        f"A {first} stands next to a {second}.",
        f"A photo of a large {first} and some {second} near the {third}.",
        f"There is a {first} with a small {second}, and a {third} behind it.",
    )
    return str(forms[int(rng.integers(len(forms)))])
