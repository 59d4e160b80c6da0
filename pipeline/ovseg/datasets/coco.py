"""COCO's JSON files: captions, instances and panoptic of the 2014 and 2017 releases, and other files in that format.

They are streamed and never loaded whole: instances_train2017.json alone would take gigabytes in every worker process.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import ijson

from ovseg.core.errors import OvsegError
from ovseg.datasets.store import Record, Store, Writer, open_store


def open_coco(path: Path, database: Path) -> Store:
    """Open the images, annotations and categories of a COCO file.

    Args:
        path: captions, instances or panoptic JSON: an object with the lists "images" and "annotations".
        database: file that the records are copied to; it is made if it does not exist.

    Raises:
        OvsegError: if the file is missing, is not valid JSON, or is not in COCO's format; the message says where.
    """
    _check_is_file(path)
    return open_store(database, partial(_fill, path))


def open_results(path: Path, database: Path) -> Store:
    """Open a COCO results file, a list of `{"image_id", "segmentation", "score"}`, as annotations without images.

    Args:
        path: results JSON.
        database: file that the records are copied to; it is made if it does not exist.

    Raises:
        OvsegError: if the file is missing, is not valid JSON, or is not a list of results.
    """
    _check_is_file(path)

    def fill(writer: Writer) -> None:
        if not writer.add_annotations(_read_records(path, "item", ("image_id", "segmentation"))):
            raise OvsegError(
                f"{path} is not a COCO results file: a list of objects with image_id and segmentation is expected"
            )

    return open_store(database, fill)


def _check_is_file(path: Path) -> None:
    if not path.is_file():
        problem = "a folder" if path.is_dir() else "missing"
        raise OvsegError(f"{path} is {problem}; a JSON file in COCO's format is needed")


def _fill(path: Path, writer: Writer) -> None:
    images = writer.add_images(_read_records(path, "images.item", ("id", "file_name")))
    annotations = writer.add_annotations(_read_records(path, "annotations.item", ("image_id",)))
    writer.add_categories(_read_records(path, "categories.item", ("id", "name")))
    if empty := [name for name, number in (("images", images), ("annotations", annotations)) if not number]:
        raise OvsegError(
            f"{path} is not a COCO file: {' and '.join(empty)} missing or empty (top-level keys: {_top_level_keys(path)})"
        )


def _read_records(path: Path, prefix: str, required: tuple[str, ...]) -> Iterator[Record]:
    """The objects under `prefix`, each checked for the required keys; the first of these is its id."""
    try:
        with path.open("rb") as stream:
            for number, record in enumerate(ijson.items(stream, prefix, use_float=True)):
                missing = [key for key in required if not isinstance(record, dict) or key not in record]
                if missing:
                    raise OvsegError(f"{path}: {prefix}[{number}] has no {missing[0]!r}; is this a COCO file?")
                if not _is_id(record[required[0]]):
                    raise OvsegError(
                        f"{path}: {prefix}[{number}] has {required[0]} {record[required[0]]!r}, which is not a whole number"
                    )
                yield record
    except ijson.JSONError as error:
        reason = str(error).split("\n")[0]
        raise OvsegError(
            f"{path} is broken JSON ({reason}); the download may be cut off: {path.stat().st_size:,} bytes. Fetch it again"
        ) from None
    except UnicodeDecodeError as error:
        raise OvsegError(
            f"{path} is not text in UTF-8 ({error.reason}); a JSON file in COCO's format is needed"
        ) from None


def _is_id(value: Any) -> bool:
    try:
        return int(value) == float(value) and abs(int(value)) < 2**63
    except (TypeError, ValueError, OverflowError):
        return False


def _top_level_keys(path: Path) -> str:
    with path.open("rb") as stream:
        keys: list[Any] = [value for prefix, event, value in ijson.parse(stream) if not prefix and event == "map_key"]
    return ", ".join(map(str, keys)) or "none"
