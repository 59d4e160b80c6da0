"""Annotations of any size, looked up by image: a JSON file is streamed once into SQLite, so that memory use stays constant."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ovseg.core.errors import explain_full_disk

Record = dict[str, Any]


class Store:
    """Images, their annotations, and categories, as JSON records that are read from disk; see `open_store`."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)

    def count(self) -> int:
        """The number of images."""
        return int(self._db.execute("SELECT count(*) FROM images").fetchone()[0])

    def images(self, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        """Image records sorted by id, from index `start` up to but not including index `stop`."""
        limit = -1 if stop is None else stop - start
        query = "SELECT record FROM images ORDER BY id LIMIT ? OFFSET ?"
        return (json.loads(row[0]) for row in self._db.execute(query, (limit, start)))

    def annotations(self, image_id: int) -> list[Record]:
        """Annotation records of one image, in the order of the file."""
        query = "SELECT record FROM annotations WHERE image_id = ? ORDER BY rowid"
        return [json.loads(row[0]) for row in self._db.execute(query, (image_id,))]

    def categories(self) -> dict[int, Record]:
        """Category records by id."""
        return {row[0]: json.loads(row[1]) for row in self._db.execute("SELECT id, record FROM categories")}


class Writer:
    """Fills a new store."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; BEGIN;"
            "CREATE TABLE images (id INTEGER PRIMARY KEY, record TEXT);"
            "CREATE TABLE annotations (image_id INTEGER, record TEXT);"
            "CREATE TABLE categories (id INTEGER PRIMARY KEY, record TEXT);"
        )

    def add_images(self, records: Iterable[Record]) -> int:
        """Add image records by their "id" and return their number; of a repeated id the first record is kept."""
        return self._add("INSERT OR IGNORE INTO images VALUES (?, ?)", "id", records)

    def add_annotations(self, records: Iterable[Record]) -> int:
        """Add annotation records by their "image_id" and return their number."""
        return self._add("INSERT INTO annotations VALUES (?, ?)", "image_id", records)

    def add_categories(self, records: Iterable[Record]) -> int:
        """Add category records by their "id" and return their number; of a repeated id the first record is kept."""
        return self._add("INSERT OR IGNORE INTO categories VALUES (?, ?)", "id", records)

    def _add(self, statement: str, key: str, records: Iterable[Record]) -> int:
        number = 0
        for record in records:
            self._execute(statement, (int(record[key]), json.dumps(record)))
            number += 1
        return number

    def close(self) -> None:
        """Build the index of annotations and finish the file."""
        self._execute("CREATE INDEX by_image ON annotations (image_id)")
        self._execute("COMMIT")
        self._db.close()

    def _execute(self, statement: str, values: tuple[int, str] | tuple[()] = ()) -> None:
        try:
            self._db.execute(statement, values)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE):
                raise OSError(errno.ENOSPC, str(error)) from None
            raise


def open_store(path: Path, fill: Callable[[Writer], None]) -> Store:
    """Open the store at `path`. If it does not exist, `fill` fills it first; a fill that is killed leaves nothing behind."""
    if not path.exists():
        tmp_path = path.with_name(path.name + f".{os.getpid()}.tmp")
        tmp_path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = Writer(tmp_path)
        try:
            with explain_full_disk(path):
                fill(writer)
                writer.close()
        except BaseException:
            tmp_path.unlink(missing_ok=True)
            raise
        tmp_path.replace(path)
    return Store(path)
