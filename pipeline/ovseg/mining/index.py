"""Step `index`: lists the images with their captions, one row per image, and whether each image can be used."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from ovseg.core import hashing, tables
from ovseg.core.errors import BadItem, OvsegError, explain_write_errors
from ovseg.core.failures import failure, write_failures
from ovseg.core.images import read_bytes, read_header
from ovseg.core.options import IndexOptions, Orientation
from ovseg.core.remote_files import file_states, is_folder, list_files, local_copy
from ovseg.core.rotation import explain_rotation, rotation_counts
from ovseg.core.text import normalize
from ovseg.datasets.caption_tables import Columns, format_of
from ovseg.datasets.captions import open_captions
from ovseg.datasets.references import check_listed_images
from ovseg.datasets.store import Record, Store
from ovseg.datasets.webdataset import list_shards
from ovseg.engine.fingerprint import step_key
from ovseg.engine.published import reusable_counts
from ovseg.engine.runtime import Runtime
from ovseg.engine.scratch import PUBLISHED_MARKER, Scratch, scratch_folder
from ovseg.engine.steps import run_step
from ovseg.engine.totals import Total
from ovseg.engine.units import Counts, Task

log = logging.getLogger("ovseg")

TOTALS = (Total("images", "(?!caption_|member_).*"), Total("captions", "caption_.*"))
IMAGES_PER_PART = 64  # in the index, and so in every table that follows it: a unit is minutes of work at most

Row = dict[str, Any]


def build_index(out: Path, runtime: Runtime, options: IndexOptions) -> dict[str, int]:
    """Write the table `index`, sorted by image id; images that are missing or broken are recorded with the reason.

    Captions are stored in their normal form (`core.text.normalize`), which the spans of nouns refer to.

    Args:
        out: folder of the table `index`.
        runtime: workers, folder of unfinished work.
        options: parameters of the step.

    Returns:
        counts: images, captions, dropped images and captions by reason, members of shards that are left out
        (`dropped.member_...`), images without a caption, and the counts of `core.rotation`.

    Raises:
        OvsegError: a path does not exist or is in no format that is read, or not one image can be used.
    """
    with explain_write_errors(options.images):
        if not is_folder(options.images):
            raise OvsegError(f"the folder of images {options.images} does not exist")
    with local_copy(options.captions, runtime.work) as captions:
        return _build_index(out, runtime, options, captions)


def _build_index(out: Path, runtime: Runtime, options: IndexOptions, captions: Path) -> dict[str, int]:
    columns = Columns(options.image_column, options.caption_column, options.id_column)
    key = step_key(
        "index",
        __name__,
        images=str(options.images.resolve()),
        captions=_captions_identity(captions),
        columns=columns if format_of(captions) else None,
        limit=options.limit,
        orientation=options.orientation,
        schema=tables.SCHEMA_VERSION,
    )
    # The images are no part of the key: hashing all of them takes as long as the step. DVC, which sees that they have
    # changed, deletes `out` and runs the step again; published work of the same key is then not reused.
    published = (scratch_folder(runtime.work, key) / PUBLISHED_MARKER).exists()
    redo = published and not runtime.retry and reusable_counts(out, key, runtime) is None
    scratch = Scratch(runtime.work, key, runtime.fresh or redo, keep=runtime.keep)
    database = scratch.folder / "captions.sqlite"
    store = open_captions(captions, database, columns)
    num_images = min(store.count(), options.limit or store.count())
    units = [f"{i:05d}" for i in range(-(-num_images // IMAGES_PER_PART))]
    factory = _IndexTaskFactory(options.images, database, num_images, options.orientation)
    left_out = {f"dropped.{reason}": number for reason, (number, _) in store.left_out().items()}
    more_counts = {**left_out, **check_listed_images(captions, store)}
    counts = run_step(key, units, factory, out, runtime, scratch=scratch, totals=TOTALS, more_counts=more_counts)
    for reason, (number, example) in store.left_out().items():
        log.warning(
            "index: %d members of shards are left out for the reason %s; for example %s", number, reason, example
        )
    for warning in explain_rotation(counts, options.orientation, "index.orientation"):
        log.warning("index: %s", warning)
    return counts


def _captions_identity(path: Path) -> Any:
    """A value that changes when the captions change."""
    if not path.exists():
        raise OvsegError(f"the captions {path} do not exist; those of COCO are in annotations_trainval2017.zip")
    if path.is_file():
        return hashing.sha256_file(path)
    return file_states(list_files(path) if format_of(path) else list_shards(path))


@dataclass(frozen=True)
class _IndexTaskFactory:
    images: Path
    database: Path
    num_images: int
    orientation: Orientation

    def __call__(self, device: str) -> Task:  # noqa: ARG002 - the step runs no model
        store = Store(self.database)
        first_ids = store.every_nth_id(IMAGES_PER_PART)

        def task(unit: str, folder: Path) -> Counts:
            number = min(IMAGES_PER_PART, self.num_images - int(unit) * IMAGES_PER_PART)
            records = store.images(number, first_ids[int(unit)])
            counts: Counter[str] = Counter(images=0, captions=0)
            rows, failures = [], []
            for record in records:
                captions, malformed = _captions(int(record["id"]), store.annotations(record["id"]))
                rows.append(_row(self.images, record, captions, self.orientation, counts))
                failures += malformed
            counts.update(f"dropped.{row['reason']}" for row in failures)
            # The key of a part is its content, so that a changed image changes what follows.
            key = hashing.fingerprint(rows=rows)
            tables.write_part(folder / f"{unit}.parquet", "index", rows, key)
            write_failures(folder, unit, failures, key)
            return counts

        return task


def _row(images: Path, record: Record, captions: list[Row], orientation: Orientation, counts: Counter[str]) -> Row:
    row: Row = {
        "image_id": int(record["id"]),
        "file": str(record["file_name"]),
        "member": record.get("member"),
        "offset": int(record.get("offset", 0)),
        "size": 0,
        "sha256": "",
        "width": 0,
        "height": 0,
        "exif_orientation": 1,
        "orientation": orientation,
        "captions": captions,
        "problem": None,
        "detail": None,
    }
    try:
        if "problem" in record:
            raise BadItem(record["problem"], record["detail"])
        data = read_bytes(images, row["file"], row["offset"], int(record["size"]) if "offset" in record else -1)
        row["size"], row["sha256"] = len(data), hashlib.sha256(data).hexdigest()
        header = read_header(data, orientation)
        row["width"], row["height"], row["exif_orientation"], row["detail"] = header
        counts.update(images=1, captions=len(row["captions"]))
        if not row["captions"]:
            counts["images_without_caption"] += 1
        counts.update(rotation_counts(header, (record.get("width"), record.get("height"))))
    except BadItem as problem:
        row["problem"], row["detail"] = problem.reason, problem.detail
        counts[f"dropped.{problem.reason}"] += 1
    return row


def _captions(image_id: int, annotations: list[Record]) -> tuple[list[Row], list[Row]]:
    """The captions of an image in their normal form, sorted by id, and rows of `failures` for those that are no text.

    A caption without an id gets its position as its id. A caption that is listed twice alike is one.

    Raises:
        OvsegError: two captions have the same id, so that nothing tells which of them a noun was read from.
    """
    texts: dict[int, str] = {}
    unnumbered: list[tuple[int, str]] = []
    failures: list[Row] = []
    for position, record in enumerate(annotations):
        number, text = record.get("id"), record.get("caption")
        if not isinstance(text, str):
            number = number if isinstance(number, int) else position
            problem = BadItem("caption_not_text", f"annotation {number}: the caption is {str(text)[:80]!r}, not a text")
            failures.append(failure(image_id, f"caption {number}", problem))
        elif not isinstance(number, int):
            unnumbered.append((position, normalize(text)))
        elif texts.setdefault(number, normalize(text)) != normalize(text):
            raise OvsegError(
                f"two captions of image {image_id} have the id {number}: {texts[number]!r} and {text!r}. Were files joined "
                "that both count from 1? Give every caption an id of its own"
            )
    for position, text in unnumbered:
        texts[next(free for free in count(position) if free not in texts)] = text
    return [{"id": number, "text": texts[number]} for number in sorted(texts)], failures
