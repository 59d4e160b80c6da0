"""Proposals from masks on disk: annotated masks (`ground_truth`) and masks that another model made (`precomputed`)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ovseg.core import masks, tables
from ovseg.core.errors import BadItem, OvsegError
from ovseg.core.image_records import ImageRecord
from ovseg.core.images import decode_image, decode_labels, safe_path
from ovseg.core.masks import MaskArray
from ovseg.datasets.classes import read_classes
from ovseg.datasets.coco import open_coco, open_results
from ovseg.datasets.store import Record
from ovseg.proposals import Proposal, Source

UNLABELLED = 255  # in the label maps of COCO-Stuff
CLASSES = "classes.json"  # class table of a folder of label maps


def ground_truth(path: Path, scratch: Path, labels: bool = False, classes: Path | None = None) -> Source:
    """Create a source that yields annotated masks.

    Args:
        path: COCO instances JSON; or COCO panoptic JSON, whose PNGs are in the folder of the same name without ".json"; or
            a folder of label maps in the format of COCO-Stuff, one PNG for each image.
        scratch: folder for an indexed copy of the JSON.
        labels: True yields class names, too; proposals have none.
        classes: class table of a folder of label maps; None for its classes.json.

    Raises:
        OvsegError: the path does not exist or is in none of these formats.
    """
    if path.is_dir():
        class_names = {row.id: row.names[0] for row in read_classes(classes or path / CLASSES)} if labels else None
        return lambda image: _label_map_masks(path, image, class_names)
    store = open_coco(path, scratch / f"{path.stem}.sqlite")
    names = {number: str(record["name"]) for number, record in store.categories().items()}

    def source(image: ImageRecord) -> Iterator[Proposal | BadItem]:
        for record in store.annotations(image.image_id):
            if "segments_info" in record:
                yield from _panoptic_masks(path.with_suffix(""), record, image, names if labels else {})
            else:
                yield _coco_mask(record, image, names if labels else {})

    return source


def masks_by_label(source: Source, image: ImageRecord, labels: Container[str] | None = None) -> dict[str, MaskArray]:
    """The union of an image's annotated masks for each class.

    Args:
        source: annotated masks with labels, see `ground_truth`.
        image: the image.
        labels: the class names that count; None for all.

    Returns:
        a boolean mask `[H, W]` for each class name, in the order of their first masks.

    Raises:
        BadItem: the masks of the image cannot be read.
    """
    unions: dict[str, MaskArray] = {}
    for item in source(image):
        if isinstance(item, Proposal) and item.label is not None and (labels is None or item.label in labels):
            mask = masks.decode(item.rle, image.height, image.width)
            unions[item.label] = unions[item.label] | mask if item.label in unions else mask
    return unions


def precomputed(path: Path, scratch: Path, max_proposals: int) -> Source:
    """Create a source that yields masks of another model.

    Args:
        path: COCO results JSON, or a table `proposals` (a Parquet file, or a folder of them).
        scratch: folder for an indexed copy of the JSON.
        max_proposals: largest number of proposals for one image; those with the best scores are kept.

    Raises:
        OvsegError: the path does not exist or is in none of these formats.
    """
    store = None if path.is_dir() or path.suffix == ".parquet" else open_results(path, scratch / f"{path.stem}.sqlite")
    parts = {} if store else _parts_by_image([path] if path.is_file() else tables.parts(path))

    def source(image: ImageRecord) -> Iterator[Proposal | BadItem]:
        records = store.annotations(image.image_id) if store else _table_records(parts.get(image.image_id, ()), image)
        items = [_coco_mask(record, image, {}) for record in records]
        proposals = sorted((item for item in items if isinstance(item, Proposal)), key=lambda item: -item.score)
        return chain(proposals[:max_proposals], (item for item in items if isinstance(item, BadItem)))

    return source


def _parts_by_image(parts: Sequence[Path]) -> Mapping[int, list[Path]]:
    """Map each image id to the parts of a table that contain it, so that not every part is read for every image."""
    by_image: dict[int, list[Path]] = defaultdict(list)
    for part in parts:
        for image_id in tables.read_part(part, "proposals", ["image_id"])["image_id"].unique().to_pylist():
            by_image[image_id].append(part)
    return by_image


def _table_records(parts: Sequence[Path], image: ImageRecord) -> Iterator[Record]:
    """Yield an image's rows of a table `proposals` as records of COCO."""
    for part in parts:
        for row in pq.read_table(part, filters=[("image_id", "==", image.image_id)]).to_pylist():
            segmentation = {"size": [row["height"], row["width"]], "counts": row["rle"]}
            yield {"segmentation": segmentation, "score": row["score"]}


def _coco_mask(record: Record, image: ImageRecord, names: Mapping[int, str]) -> Proposal | BadItem:
    if record.get("iscrowd") and not isinstance(record.get("isthing"), int):
        return BadItem("crowd", f"annotation {record.get('id')} is a crowd (iscrowd), not one object")
    score = record.get("score", 1.0)
    if not isinstance(score, (int, float)) or not math.isfinite(score):
        return BadItem("score_malformed", f"the score {score!r} is not a number")
    try:
        rle = masks.from_coco(record.get("segmentation"), image.height, image.width)
    except BadItem as problem:
        return problem
    return Proposal(rle, float(score), names.get(record.get("category_id", -1)))


def _panoptic_masks(
    folder: Path, record: Record, image: ImageRecord, names: Mapping[int, str]
) -> Iterator[Proposal | BadItem]:
    try:
        name, segments = str(record.get("file_name", "")), record["segments_info"]
        pixels = _read_pixels(safe_path(folder, name), image, decode_image)
    except BadItem as problem:
        yield problem
        return
    ids = pixels.astype(np.int32) @ np.array([1, 256, 65536])  # COCO's panoptic format: id = R + 256 G + 65536 B
    for segment in segments if isinstance(segments, list) else [segments]:
        if not isinstance(segment, dict) or not isinstance(segment.get("id"), int):
            yield BadItem("segment_malformed", f"{name}: the segment {segment!r} has no id")
        elif not (mask := ids == segment["id"]).any():
            yield BadItem("empty_mask", f"{name} has no pixel of segment {segment['id']}")
        else:
            yield Proposal(masks.encode(mask), 1.0, names.get(segment.get("category_id", -1)))


def _label_map_masks(folder: Path, image: ImageRecord, names: Mapping[int, str] | None) -> Iterator[Proposal | BadItem]:
    try:
        labels = _read_pixels(folder / Path(image.file).with_suffix(".png").name, image, decode_labels)
    except BadItem as problem:
        yield problem
        return
    for label in np.unique(labels):
        if label != UNLABELLED and (names is None or int(label) in names):
            yield Proposal(masks.encode(labels == label), 1.0, names[int(label)] if names else None)


def _read_pixels(path: Path, image: ImageRecord, decode: Callable[[bytes], NDArray[Any]]) -> NDArray[Any]:
    try:
        pixels = decode(path.read_bytes())
    except OSError as error:
        raise BadItem("missing_mask_file", f"{path}: {error.strerror}") from None
    if pixels.shape[:2] != (image.height, image.width):
        raise BadItem(
            "mask_size", f"{path} is {pixels.shape[:2]} (height, width), the image {(image.height, image.width)}"
        )
    return pixels


def check_path(path: Path | None, source: str) -> Path:
    """Return the path to the masks of a proposal source.

    Raises:
        OvsegError: the path is None or does not exist.
    """
    if path is None or not path.exists():
        raise OvsegError(f"the proposal source {source!r} needs a path to its masks, but {path} does not exist")
    return path
