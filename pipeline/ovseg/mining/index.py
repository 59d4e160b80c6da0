"""Step `index`: what is on disk. One row an image, its captions, and whether it can be used at all."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

from ovseg.core import hashing, tables
from ovseg.core.errors import BadItem, OvsegError
from ovseg.core.images import read_bytes, read_header, safe_path
from ovseg.datasets.coco import open_coco
from ovseg.datasets.store import Record, Store
from ovseg.datasets.webdataset import open_shards
from ovseg.engine.fingerprint import step_key
from ovseg.engine.runtime import Runtime
from ovseg.engine.steps import run_step
from ovseg.engine.units import PUBLISHED, Counts, Scratch, Task, published, scratch_folder

IMAGES_PER_PART = 64  # of the index, and so of every table that follows it: a unit is minutes of work at most


def build_index(images: Path, captions: Path, out: Path, runtime: Runtime, limit: int | None = None) -> dict[str, int]:
    """List images and captions, one row an image, sorted by image id; what is missing or broken is recorded.

    Args:
        images: folder that `file_name` is relative to, or a folder of WebDataset shards.
        captions: JSON in COCO Captions' format; for shards the same folder as `images`.
        out: folder of the table `index`.
        limit: only the first that many images.

    Returns:
        counts: images, captions, and images dropped by reason.

    Raises:
        OvsegError: if a path is missing or not what it should be, or no image can be used.
    """
    if not images.is_dir():
        raise OvsegError(f"the image folder {images} does not exist")
    key = step_key(
        "index",
        __name__,
        images=str(images.resolve()),
        captions=_stamp(captions),
        limit=limit,
        schema=tables.SCHEMA_VERSION,
    )
    # the images themselves are no part of the key: an index that is made again, as DVC does when they change, looks anew
    again = (scratch_folder(runtime.work, key) / PUBLISHED).exists() and published(out, key, runtime) is None
    scratch = Scratch(runtime.work, key, runtime.fresh or again)
    store = _open(captions, scratch.folder / "captions.sqlite")
    number = min(store.count(), limit or store.count())
    units = [f"{i:05d}" for i in range(-(-number // IMAGES_PER_PART))]
    opener = partial(_task, images, scratch.folder / "captions.sqlite", number)
    counts = run_step(key, units, opener, out, runtime, scratch=scratch)
    if not counts["images"]:
        dropped = {name: n for name, n in counts.items() if name.startswith("dropped.")}
        raise OvsegError(f"not one of the {number} images listed in {captions} can be used from {images}: {dropped}")
    return counts


def _stamp(path: Path) -> Any:
    """What changes when the captions change."""
    if not path.exists():
        raise OvsegError(f"the captions {path} do not exist; COCO's are in annotations_trainval2017.zip")
    return (
        hashing.sha256_file(path)
        if path.is_file()
        else [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(path.glob("*.tar"))]
    )


def _open(captions: Path, database: Path) -> Store:
    return open_shards(captions, database) if captions.is_dir() else open_coco(captions, database)


def _task(images: Path, database: Path, number: int, _device: str) -> Task:
    store = Store(database)

    def task(unit: str, folder: Path) -> Counts:
        start = int(unit) * IMAGES_PER_PART
        records = store.images(start, min(start + IMAGES_PER_PART, number))
        rows = [_row(images, record, store.annotations(record["id"])) for record in records]
        content = hashing.fingerprint(rows=rows)  # the part says what it holds, so a changed image changes what follows
        tables.write_part(folder / f"{unit}.parquet", "index", rows, content)
        good = [row for row in rows if row["problem"] is None]
        counts = {"images": len(good), "captions": sum(len(row["captions"]) for row in good)}
        for row in rows:
            if row["problem"]:
                counts[f"dropped.{row['problem']}"] = counts.get(f"dropped.{row['problem']}", 0) + 1
        return counts

    return task


def _row(images: Path, record: Record, annotations: list[Record]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "image_id": int(record["id"]),
        "file": str(record["file_name"]),
        "offset": int(record.get("offset", 0)),
        "size": 0,
        "sha256": "",
        "width": 0,
        "height": 0,
        "captions": _captions(annotations),
        "problem": None,
        "detail": None,
    }
    try:
        if "problem" in record:
            raise BadItem(record["problem"], record["detail"])
        size = int(record["size"]) if "offset" in record else _size(images, row["file"])
        data = read_bytes(images, row["file"], row["offset"], size)
        row["size"], row["sha256"] = len(data), hashlib.sha256(data).hexdigest()
        row["width"], row["height"] = read_header(data)
    except BadItem as problem:
        row["problem"], row["detail"] = problem.reason, problem.detail
    return row


def _size(images: Path, name: str) -> int:
    try:
        return safe_path(images, name).stat().st_size
    except OSError as error:
        raise BadItem("missing", f"{images / name}: {error.strerror}") from None


def _captions(annotations: list[Record]) -> list[dict[str, Any]]:
    found = [
        {"id": record["id"] if isinstance(record.get("id"), int) else number, "text": record["caption"]}
        for number, record in enumerate(annotations)
        if isinstance(record.get("caption"), str)
    ]
    return sorted(found, key=lambda caption: caption["id"])
