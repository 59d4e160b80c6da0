"""Export of mined pairs for other tools.

Shards store the mask beside each crop; other tools expect crops whose background is already filled.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import webdataset as wds
from PIL import Image

from ovseg.core import crops, tables
from ovseg.core.errors import BadItem, OvsegError
from ovseg.core.files import write_json
from ovseg.core.image_records import COLUMNS
from ovseg.core.images import read_bytes, safe_path
from ovseg.core.json_files import read_json
from ovseg.core.options import Fill
from ovseg.core.paths import to_path
from ovseg.core.remote_files import make_folder
from ovseg.core.samples import Sample, check_fill, decode_sample, raw_samples
from ovseg.mining.run import RUN
from ovseg.mining.shards import CLIP_MEAN, SIZES
from ovseg.mining.verify import shards_folder

JPEG_QUALITY = 95


def open_clip(run: Path, out: Path, fill: Fill, images: Path | None = None) -> str:  # noqa: ARG001 - crops are in shards
    """Write shards of `jpg` and `txt` members, on which open_clip trains: `--train-data 'OUT/{00000..NNNNN}.tar'`.

    Args:
        run: folder of a run, or of its shards.
        out: output folder, which must be empty.
        fill: background of the crops.
        images: folder of the images that were mined; None for the one that run.json states. Only `coco` reads it.

    Returns:
        a sentence about what was written, with the options of open_clip.

    Raises:
        OvsegError: `run` has no shards, or none whose background can be kept; or `out` is not empty.
    """
    tars = _tars(run, fill)
    _make_empty_folder(out)
    sizes: dict[str, int] = {}
    for path in tars:
        with (out / path.name).open("wb") as stream, wds.TarWriter(stream, mtime=0) as tar:
            for sample in _samples(path):
                tar.write({"__key__": sample.key, "jpg": _jpeg(sample, fill), "txt": sample.text.encode()})
                sizes[path.name] = sizes.get(path.name, 0) + 1
    write_json(out / SIZES, sizes)
    last = f"{len(sizes) - 1:05d}"
    number = sum(sizes.values())
    return f"{number:,} samples: --train-data '{out}/{{00000..{last}}}.tar' --train-num-samples {number}"


def csv_(run: Path, out: Path, fill: Fill, images: Path | None = None) -> str:  # noqa: ARG001 - crops are in shards
    """Write images and a tab-separated file with the columns `filepath` and `title`, the layout of OVSeg's released code.

    Arguments, result and errors are those of `open_clip`.
    """
    tars = _tars(run, fill)
    _make_empty_folder(out)
    make_folder(out / "images")
    number = 0
    with (out / "pairs.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t")
        writer.writerow(["filepath", "title"])
        for path in tars:
            for sample in _samples(path):
                name = f"images/{sample.key}.jpg"
                (out / name).write_bytes(_jpeg(sample, fill))
                writer.writerow([name, sample.text])
                number += 1
    return f"{number:,} images and {out / 'pairs.csv'}"


def coco(run: Path, out: Path, _fill: Fill, images: Path | None = None) -> str:
    """Write a COCO instances JSON file: each pair is an annotation, each noun a category. There are no crops to fill.

    The JSON names image files. Images that were mined from tar files are written to the folder `images` beside it, with the
    names that they have in the tars.

    Arguments, result and errors are those of `open_clip`; `run` must be the folder of a whole run.
    """
    _make_empty_folder(out)
    pairs = tables.read(run / "pairs", "pairs").to_pylist()
    paired = {(row["image_id"], row["proposal"]) for row in pairs}
    columns = ["image_id", "proposal", "rle", "height", "width", "box"]
    proposals = {
        (row["image_id"], row["proposal"]): row
        for row in tables.rows(run / "proposals", "proposals", columns)
        if (row["image_id"], row["proposal"]) in paired
    }
    nouns = {noun: i for i, noun in enumerate(sorted({row["noun"] for row in pairs}), start=1)}
    image_ids = {row["image_id"] for row in pairs}
    rows = [row for row in tables.rows(run / "index", "index", COLUMNS) if row["image_id"] in image_ids]
    extracted = _extract([row for row in rows if row["member"]], run, out / "images", images)
    entries = [
        {
            "id": row["image_id"],
            "file_name": row["member"] or row["file"],
            "width": row["width"],
            "height": row["height"],
        }
        for row in rows
    ]
    annotations = [_annotation(row, proposals[row["image_id"], row["proposal"]], nouns) for row in pairs]
    categories = [{"id": i, "name": noun} for noun, i in nouns.items()]
    path = out / "instances.json"
    content = {"images": entries, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")
    return f"{len(annotations):,} annotations of {len(nouns):,} nouns: {path}{extracted}"


def _extract(rows: list[dict[str, Any]], run: Path, folder: Path, images: Path | None) -> str:
    """Write the images of tar files to a folder, and return the end of a sentence about it; empty if there are none."""
    if not rows:
        return ""
    if images is None:
        try:
            images = to_path(read_json(run / RUN)["options"]["index"]["images"])
        except (OSError, KeyError, TypeError):
            raise OvsegError(
                f"{run} does not say where its images are; give the folder of their tars as --images"
            ) from None
    for row in rows:
        try:
            data = read_bytes(images, row["file"], row["offset"], row["size"])
            target = safe_path(folder, row["member"])
        except BadItem as problem:
            raise OvsegError(
                f"an image cannot be read from {images} ({problem.detail}); give the folder of the tars as --images"
            ) from None
        make_folder(target.parent)
        target.write_bytes(data)
    return f"; its {len(rows):,} images, out of their tars: {folder}"


FORMATS: dict[str, Callable[[Path, Path, Fill, Path | None], str]] = {"open_clip": open_clip, "csv": csv_, "coco": coco}


def _annotation(pair: dict[str, Any], proposal: dict[str, Any], nouns: dict[str, int]) -> dict[str, Any]:
    return {
        "id": pair["pair"] + 1,
        "image_id": pair["image_id"],
        "category_id": nouns[pair["noun"]],
        "iscrowd": 0,
        "bbox": proposal["box"],
        "area": pair["area"],
        "score": pair["similarity"],
        "segmentation": {"size": [proposal["height"], proposal["width"]], "counts": proposal["rle"].decode("ascii")},
    }


def _tars(run: Path, fill: Fill) -> list[Path]:
    shards = shards_folder(run)
    check_fill(shards, fill)
    return sorted(shards.glob("*.tar"))


def _samples(path: Path) -> Iterator[Sample]:
    return map(decode_sample, raw_samples(path))


def _jpeg(sample: Sample, fill: Fill) -> bytes:
    stream = io.BytesIO()
    filled = crops.fill_background(sample.crop, sample.mask, crops.fill_color(fill, CLIP_MEAN))
    Image.fromarray(filled).save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return stream.getvalue()


def _make_empty_folder(out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        raise OvsegError(f"{out} is not empty; give another --out")
    make_folder(out)
