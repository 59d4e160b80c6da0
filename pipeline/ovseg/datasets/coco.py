"""COCO's JSON files: captions, instances, panoptic (2014 and 2017 releases, and any folder in that format).

They are streamed, never loaded whole: instances_train2017.json alone would take gigabytes in every worker.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import ijson

from ovseg.core.errors import OvsegError
from ovseg.datasets.store import Record, Store, Writer, build


def open_coco(path: Path, database: Path) -> Store:
    """The images, annotations and categories of a COCO file.

    Args:
        path: captions, instances or panoptic JSON: an object with lists "images" and "annotations".
        database: where the streamed copy is kept; made if it is not there.

    Raises:
        OvsegError: if the file is missing, broken JSON, or not COCO; the message says where and what was expected.
    """
    _check_file(path)
    return build(database, partial(_fill, path))


def open_results(path: Path, database: Path) -> Store:
    """A COCO results file: a list of `{"image_id", "segmentation", "score"}`, as an annotation store without images.

    Raises:
        OvsegError: if the file is missing, broken JSON, or not a list of results.
    """
    _check_file(path)

    def fill(writer: Writer) -> None:
        if not writer.add_annotations(_items(path, "item", ("image_id", "segmentation"))):
            raise OvsegError(
                f"{path} is not a COCO results file: expected a list of objects with image_id, segmentation"
            )

    return build(database, fill)


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise OvsegError(
            f"{path} is {'a folder' if path.is_dir() else 'missing'}; a JSON file in COCO's format is needed"
        )


def _fill(path: Path, writer: Writer) -> None:
    images = writer.add_images(_items(path, "images.item", ("id", "file_name")))
    annotations = writer.add_annotations(_items(path, "annotations.item", ("image_id",)))
    writer.add_categories(_items(path, "categories.item", ("id", "name")))
    if not images or not annotations:
        missing = [name for name, n in (("images", images), ("annotations", annotations)) if not n]
        raise OvsegError(
            f"{path} is not a COCO file: its list{'s' if len(missing) > 1 else ''} {' and '.join(missing)} "
            f"{'are' if len(missing) > 1 else 'is'} missing or empty (top-level keys: {_keys(path)})"
        )


def _items(path: Path, prefix: str, needed: tuple[str, ...]) -> Iterator[Record]:
    """The objects under `prefix`, each checked for the keys that it must have; the first of them is its number."""
    try:
        with path.open("rb") as stream:
            for number, record in enumerate(ijson.items(stream, prefix, use_float=True)):
                absent = [key for key in needed if not isinstance(record, dict) or key not in record]
                if absent:
                    raise OvsegError(f"{path}: {prefix}[{number}] has no {absent[0]!r}; is this a COCO file?")
                if not _is_id(record[needed[0]]):
                    raise OvsegError(
                        f"{path}: {prefix}[{number}] has {needed[0]} {record[needed[0]]!r}; COCO's are whole numbers"
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


def _keys(path: Path) -> str:
    with path.open("rb") as stream:
        found: list[Any] = [value for prefix, event, value in ijson.parse(stream) if not prefix and event == "map_key"]
    return ", ".join(map(str, found)) or "none"
