"""Proposals from annotated masks on disk: COCO instances or panoptic JSON, or a folder of label maps."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovseg.core import masks
from ovseg.core.errors import BadItem
from ovseg.core.folders import by_stem, walk_images
from ovseg.core.image_records import ImageRecord
from ovseg.core.images import decode_image, decode_labels, safe_path
from ovseg.core.masks import MaskArray
from ovseg.core.options import Orientation
from ovseg.datasets.classes import read_classes
from ovseg.datasets.coco import open_coco
from ovseg.datasets.store import Record, Store
from ovseg.proposals import Proposal, Source
from ovseg.proposals.coco_records import coco_mask

UNLABELLED = 255  # in the label maps of COCO-Stuff
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
    store = open_coco(path, scratch / f"{path.stem}.sqlite")
    names = {number: str(record["name"]) for number, record in store.categories().items()}

    def source(image: ImageRecord) -> Iterator[Proposal | BadItem]:
        problem = _other_orientation(store, image)
        for record in store.annotations(image.image_id):
            if "segments_info" in record:
                yield from _panoptic_masks(path.with_suffix(""), record, image, names if labels else {})
            elif problem and isinstance(record.get("segmentation"), list):  # polygons do not state their size
                yield problem
            else:
                yield coco_mask(record, image, names if labels else {})

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


def _other_orientation(store: Store, image: ImageRecord) -> BadItem | None:
    """The rejection of masks of a rotated image that is listed with the size that it has with the other orientation."""
    if image.other_size is None:
        return None
    listed = store.image(image.image_id) or {}
    if (listed.get("height"), listed.get("width")) != image.other_size:
        return None
    try:
        image.check_size("the size that its annotations list", image.other_size)
    except BadItem as problem:
        return problem
    return None


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


def _label_map_masks(
    folder: Path, maps: Mapping[str, str], image: ImageRecord, names: Mapping[int, str] | None
) -> Iterator[Proposal | BadItem]:
    stem = PurePosixPath(image.name).with_suffix("")
    name = maps.get(str(stem)) or maps.get(stem.name) or f"{stem.name}.png"
    try:
        labels = _read_pixels(folder / name, image, decode_labels)
    except BadItem as problem:
        yield problem
        return
    for label in np.unique(labels):
        if label != UNLABELLED and (names is None or int(label) in names):
            yield Proposal(masks.encode(labels == label), 1.0, names[int(label)] if names else None)


def _read_pixels(path: Path, image: ImageRecord, decode: Callable[[bytes, Orientation], NDArray[Any]]) -> NDArray[Any]:
    try:
        pixels = decode(path.read_bytes(), image.orientation)
    except OSError as error:
        raise BadItem("missing_mask_file", f"{path}: {error.strerror}") from None
    image.check_size(str(path), pixels.shape[:2])
    return pixels
