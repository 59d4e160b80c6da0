"""Proposals from annotated masks on disk: COCO instances or panoptic JSON, or a folder of label maps."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovseg.core import masks
from ovseg.core.errors import BadItem, OvsegError
from ovseg.core.folders import by_stem, walk_images
from ovseg.core.image_records import ImageRecord
from ovseg.core.images import decode_image, decode_labels, safe_path
from ovseg.core.masks import MaskArray
from ovseg.core.options import Orientation
from ovseg.core.remote_files import read_file
from ovseg.datasets.classes import read_classes
from ovseg.datasets.coco import open_coco
from ovseg.datasets.references import (
    UNKNOWN_CATEGORY,
    category_names,
    check_categories,
    check_file_names,
    check_image_ids,
    image_names,
    read_index_names,
)
from ovseg.datasets.store import Record, Store
from ovseg.proposals import Proposal, Source
from ovseg.proposals.coco_records import category_name, coco_mask

UNLABELLED = 255  # in the label maps of COCO-Stuff
RINGS_LEFT_OUT = "rings_left_out"
"""Count of malformed rings of polygons that were left out of masks whose other rings are good."""
CLASSES = "classes.json"  # class table of a folder of label maps


def ground_truth(path: Path, scratch: Path, labels: bool = False, classes: Path | None = None) -> Source:
    """Create a source that yields annotated masks.

    Args:
        path: COCO instances JSON; or COCO panoptic JSON, whose PNGs are in the folder of the same name without ".json"; or
            a folder of label maps in the format of COCO-Stuff, one for each image, with the name of the image but for the
            suffix; the folders of the image may be left out.
        scratch: folder for an indexed copy of the JSON.
        labels: True yields class names, too; proposals have none.
        classes: class table of a folder of label maps; None for its classes.json.

    Raises:
        OvsegError: the path does not exist or is in none of these formats.
    """
    if path.is_dir():
        class_names = {row.id: row.names[0] for row in read_classes(classes or path / CLASSES)} if labels else None
        maps = by_stem(path, walk_images(path).images)
        return lambda image: _label_map_masks(path, maps, image, class_names)
    store = open_annotations(path, scratch)
    names = category_names(path, store) if labels else None

    def source(image: ImageRecord) -> Iterator[Proposal | BadItem]:
        problem = _other_size(store, image)
        for record in store.annotations(image.image_id):
            if "segments_info" in record:
                yield from _panoptic_masks(path.with_suffix(""), record, image, names)
            elif problem and not isinstance(record.get("segmentation"), dict):  # polygons do not state their size
                yield problem
            else:
                yield coco_mask(record, image, names)

    return source


def item_counts(item: Proposal | BadItem, prefix: str = "") -> dict[str, int]:
    """Return what a mask of a source is counted as, but for its use: dropped, or with rings left out."""
    if isinstance(item, BadItem):
        return {f"dropped.{prefix}{item.reason}": 1}
    return {f"{prefix}{RINGS_LEFT_OUT}": item.rings_left_out} if item.rings_left_out else {}


def open_annotations(path: Path, scratch: Path) -> Store:
    """Open COCO instances or panoptic JSON.

    Args:
        path: the JSON file.
        scratch: folder for its indexed copy.

    Raises:
        OvsegError: the file is missing or not in this format, or the PNGs of a panoptic JSON are missing.
    """
    store = open_coco(path, scratch / f"{path.stem}.sqlite")
    first = next((record for image_id in store.annotated_ids() for record in store.annotations(image_id)), {})
    if "segments_info" in first and not path.with_suffix("").is_dir():
        raise OvsegError(
            f"the label maps of {path}, a panoptic JSON, are missing: put its PNGs into {path.with_suffix('')}"
        )
    return store


def check_annotations(path: Path, scratch: Path, index: Path, labels: bool) -> dict[str, int]:
    """Check before any work that annotated masks are of the images of an index, and have known categories.

    Args:
        path, labels: see `ground_truth`.
        scratch: folder for an indexed copy of a JSON.
        index: folder of the table `index`.

    Returns:
        counts of ids that lead nowhere, see `datasets.references`.

    Raises:
        OvsegError: no mask is of an image of the index, ids stand for other images there, or categories are wrong.
    """
    images = read_index_names(index)
    if path.is_dir():
        maps, names = by_stem(path, walk_images(path).images), image_names(images)
        if not any(_label_map(maps, name) for name in names):
            raise OvsegError(f"{path} has no label map of an image of the index; the first one of these is {names[0]}")
        return {}
    store = open_annotations(path, scratch)
    counts = check_image_ids(path, store.annotated_ids(), images)
    check_file_names(path, store, images)
    if labels:
        check_categories(path, store)
    return counts


def annotated_images(path: Path, scratch: Path, images: Sequence[ImageRecord]) -> list[ImageRecord]:
    """Return the images that there are annotations for, or a label map. See `ground_truth` for the other arguments."""
    if path.is_dir():
        maps = by_stem(path, walk_images(path).images)
        return [image for image in images if _label_map(maps, image.name)]
    ids = set(open_annotations(path, scratch).annotated_ids())
    return [image for image in images if image.image_id in ids]


def masks_by_label(
    source: Source, image: ImageRecord, labels: Container[str] | None = None, dropped: list[BadItem] | None = None
) -> dict[str, MaskArray]:
    """The union of an image's annotated masks for each class.

    Args:
        source: annotated masks with labels, see `ground_truth`.
        image: the image.
        labels: the class names that count; None for all.
        dropped: is extended by the masks that cannot be used.

    Returns:
        a boolean mask `[H, W]` for each class name, in the order of their first masks.

    Raises:
        BadItem: the masks of the image cannot be read.
    """
    unions: dict[str, MaskArray] = {}
    for item in source(image):
        if isinstance(item, BadItem):
            if dropped is not None:
                dropped.append(item)
        elif item.label is not None and (labels is None or item.label in labels):
            mask = masks.decode(item.rle, image.height, image.width)
            unions[item.label] = unions[item.label] | mask if item.label in unions else mask
    return unions


def _other_size(store: Store, image: ImageRecord) -> BadItem | None:
    """The rejection of polygons of an image that their file lists with another size than it has."""
    listed = store.image(image.image_id) or {}
    height, width = listed.get("height"), listed.get("width")
    if not isinstance(height, int) or not isinstance(width, int):
        return None
    try:
        image.check_size("the size that its annotations list", (height, width))
    except BadItem as problem:
        return problem
    return None


def _panoptic_masks(
    folder: Path, record: Record, image: ImageRecord, names: Mapping[int, str] | None
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
            try:
                label = None if names is None else category_name(segment, f"segment {segment['id']} of {name}", names)
            except BadItem as problem:
                yield problem
            else:
                yield Proposal(masks.encode(mask), 1.0, label)


def _label_map_masks(
    folder: Path, maps: Mapping[str, str], image: ImageRecord, names: Mapping[int, str] | None
) -> Iterator[Proposal | BadItem]:
    name = _label_map(maps, image.name) or f"{PurePosixPath(image.name).stem}.png"
    try:
        labels = _read_pixels(folder / name, image, decode_labels)
    except BadItem as problem:
        yield problem
        return
    for label in np.unique(labels):
        if label == UNLABELLED:
            continue
        if names is not None and int(label) not in names:
            yield BadItem(UNKNOWN_CATEGORY, f"{image.name} has the label {label}, which is not in the class table")
        else:
            yield Proposal(masks.encode(labels == label), 1.0, names[int(label)] if names else None)


def _label_map(maps: Mapping[str, str], image_name: str) -> str | None:
    """The label map of an image among those of a folder, see `by_stem`; None if there is none."""
    stem = PurePosixPath(image_name).with_suffix("")
    return maps.get(str(stem)) or maps.get(stem.name)


def _read_pixels(path: Path, image: ImageRecord, decode: Callable[[bytes, Orientation], NDArray[Any]]) -> NDArray[Any]:
    try:
        pixels = decode(read_file(path), image.orientation)
    except OSError as error:
        raise BadItem("missing_mask_file", f"{path}: {error.strerror or error}") from None
    image.check_size(str(path), pixels.shape[:2])
    return pixels
