"""Masks that lie on disk: annotated ones (`ground_truth`) and those somebody else's model made (`precomputed`)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from ovseg import masks, tables
from ovseg.datasets.coco import open_coco, open_results
from ovseg.datasets.store import Record, Store
from ovseg.errors import BadItem, OvsegError
from ovseg.images import Pixels, decode_image
from ovseg.proposals import Picture, Proposal, Source

UNLABELLED = 255  # of COCO-Stuff's pixel maps


def ground_truth(path: Path, scratch: Path, labels: bool = False) -> Source:
    """Annotated masks: COCO instances or panoptic JSON, or a folder of COCO-Stuff pixel maps.

    Args:
        path: the JSON (panoptic PNGs are looked for in the folder of the same name without ".json"), or the folder
            (one PNG a picture, pixel = category id - 1, 255 unlabelled).
        scratch: folder for the streamed copy of the JSON.
        labels: give class names too; a proposal proper is class-agnostic and has none.

    Raises:
        OvsegError: if the path is missing or not in one of those formats.
    """
    if path.is_dir():
        return lambda picture: _stuff(path, picture, labels)
    store = open_coco(path, scratch / f"{path.stem}.sqlite")
    names = {number: str(record["name"]) for number, record in store.categories().items()}

    def source(picture: Picture) -> Iterator[Proposal | BadItem]:
        for record in store.annotations(picture.image_id):
            if "segments_info" in record:
                yield from _panoptic(path.with_suffix(""), record, picture, names if labels else {})
            else:
                yield _instance(record, picture, names if labels else {})

    return source


def precomputed(path: Path, scratch: Path, max_proposals: int) -> Source:
    """Masks of another model: a COCO results JSON, or a table `proposals` of ours (a Parquet file or folder).

    Raises:
        OvsegError: if the path is missing or not in one of those formats.
    """
    store = None if path.is_dir() or path.suffix == ".parquet" else open_results(path, scratch / f"{path.stem}.sqlite")
    parts = [] if store else ([path] if path.is_file() else tables.parts(path))
    for part in parts:
        tables.check_part(part, "proposals")

    def source(picture: Picture) -> Iterator[Proposal | BadItem]:
        records = _results(store, picture) if store else _rows(parts, picture)
        return islice(iter(sorted(records, key=_by_score)), max_proposals)

    return source


def _by_score(found: Proposal | BadItem) -> float:
    return -found.score if isinstance(found, Proposal) else float("-inf")


def _results(store: Store, picture: Picture) -> list[Proposal | BadItem]:
    return [_instance(record, picture, {}) for record in store.annotations(picture.image_id)]


def _rows(parts: list[Path], picture: Picture) -> list[Proposal | BadItem]:
    found: list[Proposal | BadItem] = []
    for part in parts:
        for row in pq.read_table(part, filters=[("image_id", "==", picture.image_id)]).to_pylist():
            record = {"segmentation": {"size": [row["height"], row["width"]], "counts": row["rle"]}, "score": row["score"]}
            found.append(_instance(record, picture, {}))
    return found


def _instance(record: Record, picture: Picture, names: dict[int, str]) -> Proposal | BadItem:
    if record.get("iscrowd") and not isinstance(record.get("isthing"), int):
        return BadItem("crowd", f"annotation {record.get('id')} marks a crowd, not one thing")
    try:
        rle = masks.from_coco(record.get("segmentation"), picture.height, picture.width)
    except BadItem as problem:
        return problem
    return Proposal(rle, float(record.get("score", 1.0)), names.get(int(record.get("category_id", -1))))


def _panoptic(folder: Path, record: Record, picture: Picture, names: dict[int, str]) -> Iterator[Proposal | BadItem]:
    try:
        pixels = _read_map(folder / record["file_name"], picture)
    except BadItem as problem:
        yield problem
        return
    ids = pixels.astype(np.int32) @ np.array([1, 256, 65536])
    for segment in record["segments_info"]:
        mask = ids == segment["id"]
        if not mask.any():
            yield BadItem("empty_mask", f"{record['file_name']} has no pixel of segment {segment['id']}")
        else:
            yield Proposal(masks.encode(mask), 1.0, names.get(int(segment["category_id"])))


def _stuff(folder: Path, picture: Picture, labels: bool) -> Iterator[Proposal | BadItem]:
    try:
        pixels = _read_map(folder / Path(picture.file).with_suffix(".png").name, picture)[..., 0]
    except BadItem as problem:
        yield problem
        return
    for value in np.unique(pixels):
        if value != UNLABELLED:
            yield Proposal(masks.encode(pixels == value), 1.0, str(int(value) + 1) if labels else None)


def _read_map(path: Path, picture: Picture) -> Pixels:
    try:
        pixels = decode_image(path.read_bytes())
    except OSError as error:
        raise BadItem("missing_mask_file", f"{path}: {error.strerror}") from None
    if pixels.shape[:2] != (picture.height, picture.width):
        raise BadItem("mask_size", f"{path} is {pixels.shape[:2]}, the picture {(picture.height, picture.width)}")
    return pixels


def check_path(path: Path | None, source: str) -> Path:
    """The path that a source needs.

    Raises:
        OvsegError: if it is not given or does not exist.
    """
    if path is None or not path.exists():
        raise OvsegError(f"the proposal source {source!r} needs a path to its masks; {path} does not exist")
    return path
