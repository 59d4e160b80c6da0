"""Captions of any kind: a COCO file, a folder of WebDataset shards, or a table."""

from __future__ import annotations

from pathlib import Path

from ovseg.core.json_files import first_value
from ovseg.datasets.caption_tables import Columns, format_of, open_table
from ovseg.datasets.coco import open_coco
from ovseg.datasets.store import Store
from ovseg.datasets.webdataset import open_shards


def open_captions(path: Path, database: Path, columns: Columns) -> Store:
    """Open images with their captions. JSON lines with `image_id`, `file_name` and `caption` are read as COCO's.

    Args:
        path: a file, or a folder.
        database: file that the records are copied to; it is made if it does not exist.
        columns: the names of the columns of a table.

    Raises:
        OvsegError: see `open_coco`, `open_shards` and `open_table`.
    """
    kind = format_of(path)
    if kind is None or (kind == "jsonl" and columns == Columns() and _is_coco(path)):
        return open_shards(path, database) if path.is_dir() else open_coco(path, database)
    return open_table(path, database, columns)


def _is_coco(path: Path) -> bool:
    first, _ = first_value(path)
    return isinstance(first, dict) and {"image_id", "file_name", "caption"} <= first.keys()
