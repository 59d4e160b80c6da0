"""Masks that lie on disk: annotated ones (`ground_truth`) and those somebody else's model made (`precomputed`)."""

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
from ovseg.datasets.store import Record, Store
from ovseg.proposals import Proposal, Source

UNLABELLED = 255  # of COCO-Stuff's pixel maps
CLASSES = "classes.json"


def ground_truth(path: Path, scratch: Path, labels: bool = False, classes: Path | None = None) -> Source:
    """Annotated masks: COCO instances or panoptic JSON, or a folder of COCO-Stuff pixel maps.

    Args:
        path: the JSON (panoptic PNGs are looked for in the folder of the same name without ".json"), or the folder
            (one PNG an image).
        scratch: folder for the streamed copy of the JSON.
        labels: give class names too; a proposal proper is class-agnostic and has none.
        classes: class table that says what the numbers in a folder of maps mean; None for its classes.json.

    Raises:
        OvsegError: if the path is missing or not in one of those formats.
    """
    if path.is_dir():
        named = {one.id: one.names[0] for one in read_classes(classes or path / CLASSES)} if labels else None
        return lambda image: _stuff(path, image, named)
    store = open_coco(path, scratch / f"{path.stem}.sqlite")
    names = {number: str(record["name"]) for number, record in store.categories().items()}

    def source(image: ImageRecord) -> Iterator[Proposal | BadItem]:
        for record in store.annotations(image.image_id):
            if "segments_info" in record:
                yield from _panoptic(path.with_suffix(""), record, image, names if labels else {})
            else:
                yield _instance(record, image, names if labels else {})

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
    """Masks of another model: a COCO results JSON, or a table `proposals` of ours (a Parquet file or folder).

    Raises:
        OvsegError: if the path is missing or not in one of those formats.
    """
    store = None if path.is_dir() or path.suffix == ".parquet" else open_results(path, scratch / f"{path.stem}.sqlite")
    parts = {} if store else _parts_of_images([path] if path.is_file() else tables.parts(path))

    def source(image: ImageRecord) -> Iterator[Proposal | BadItem]:
        records = _results(store, image) if store else _rows(parts.get(image.image_id, ()), image)
        good = [record for record in records if isinstance(record, Proposal)]
        best = sorted(good, key=lambda proposal: -proposal.score)[:max_proposals]
        return chain(best, (record for record in records if isinstance(record, BadItem)))

    return source


def _parts_of_images(parts: Sequence[Path]) -> Mapping[int, list[Path]]:
    """Which parts hold each image, so that an image reads its own part and not all of them."""
    found: dict[int, list[Path]] = defaultdict(list)
    for part in parts:
        for image_id in tables.read_part(part, "proposals", ["image_id"])["image_id"].unique().to_pylist():
            found[image_id].append(part)
    return found


def _results(store: Store, image: ImageRecord) -> list[Proposal | BadItem]:
    return [_instance(record, image, {}) for record in store.annotations(image.image_id)]


def _rows(parts: Sequence[Path], image: ImageRecord) -> list[Proposal | BadItem]:
    found: list[Proposal | BadItem] = []
    for part in parts:
        for row in pq.read_table(part, filters=[("image_id", "==", image.image_id)]).to_pylist():
            record = {
                "segmentation": {"size": [row["height"], row["width"]], "counts": row["rle"]},
                "score": row["score"],
            }
            found.append(_instance(record, image, {}))
    return found


def _instance(record: Record, image: ImageRecord, names: dict[int, str]) -> Proposal | BadItem:
    if record.get("iscrowd") and not isinstance(record.get("isthing"), int):
        return BadItem("crowd", f"annotation {record.get('id')} marks a crowd, not one thing")
    score = record.get("score", 1.0)
    if not isinstance(score, (int, float)) or not math.isfinite(score):
        return BadItem("score_malformed", f"the score {score!r} is not a number")
    try:
        rle = masks.from_coco(record.get("segmentation"), image.height, image.width)
    except BadItem as problem:
        return problem
    return Proposal(rle, float(score), names.get(record.get("category_id", -1)))


def _panoptic(folder: Path, record: Record, image: ImageRecord, names: dict[int, str]) -> Iterator[Proposal | BadItem]:
    try:
        name, segments = str(record.get("file_name", "")), record["segments_info"]
        pixels = _read_map(safe_path(folder, name), image, decode_image)
    except BadItem as problem:
        yield problem
        return
    ids = pixels.astype(np.int32) @ np.array([1, 256, 65536])
    for segment in segments if isinstance(segments, list) else [segments]:
        if not isinstance(segment, dict) or not isinstance(segment.get("id"), int):
            yield BadItem("segment_malformed", f"{name}: a segment is {segment!r}, without the number of its pixels")
        elif not (mask := ids == segment["id"]).any():
            yield BadItem("empty_mask", f"{name} has no pixel of segment {segment['id']}")
        else:
            yield Proposal(masks.encode(mask), 1.0, names.get(segment.get("category_id", -1)))


def _stuff(folder: Path, image: ImageRecord, names: dict[int, str] | None) -> Iterator[Proposal | BadItem]:
    try:
        pixels = _read_map(folder / Path(image.file).with_suffix(".png").name, image, decode_labels)
    except BadItem as problem:
        yield problem
        return
    for value in np.unique(pixels):
        if value != UNLABELLED and (names is None or int(value) in names):
            yield Proposal(masks.encode(pixels == value), 1.0, names[int(value)] if names else None)


def _read_map(path: Path, image: ImageRecord, decode: Callable[[bytes], NDArray[Any]]) -> NDArray[Any]:
    try:
        pixels = decode(path.read_bytes())
    except OSError as error:
        raise BadItem("missing_mask_file", f"{path}: {error.strerror}") from None
    if pixels.shape[:2] != (image.height, image.width):
        raise BadItem("mask_size", f"{path} is {pixels.shape[:2]}, the image {(image.height, image.width)}")
    return pixels


def check_path(path: Path | None, source: str) -> Path:
    """The path that a source needs.

    Raises:
        OvsegError: if it is not given or does not exist.
    """
    if path is None or not path.exists():
        raise OvsegError(f"the proposal source {source!r} needs a path to its masks; {path} does not exist")
    return path
