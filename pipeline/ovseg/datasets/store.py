"""Annotations of any size, looked up by image: a JSON file is streamed once into SQLite, so that memory use stays constant."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ovseg.core.errors import BadItem, OvsegError, explain_write_errors

Record = dict[str, Any]


class Store:
    """Images, their annotations, and categories, as JSON records that are read from disk; see `open_store`."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)

    def count(self) -> int:
        """The number of images."""
        return int(self._db.execute("SELECT count(*) FROM images").fetchone()[0])

    def images(self, number: int | None = None, first_id: int | None = None) -> Iterator[Record]:
        """Image records sorted by id.

        Args:
            number: how many; None for all.
            first_id: the smallest id; None for all ids.
        """
        query = "SELECT record FROM images WHERE id >= ? ORDER BY id LIMIT ?"
        smallest = -(2**63) if first_id is None else first_id
        return (json.loads(row[0]) for row in self._db.execute(query, (smallest, -1 if number is None else number)))

    def every_nth_id(self, n: int) -> list[int]:
        """The ids of the images 0, n, 2n, ... in the order of ids: a look-up by number would count through all before it."""
        query = (
            "SELECT id FROM (SELECT id, row_number() OVER (ORDER BY id) - 1 AS place FROM images) WHERE place % ? = 0"
        )
        return [row[0] for row in self._db.execute(query, (n,))]

    def annotations(self, image_id: int) -> list[Record]:
        """Annotation records of one image, in the order of the file."""
        query = "SELECT record FROM annotations WHERE image_id = ? ORDER BY rowid"
        return [json.loads(row[0]) for row in self._db.execute(query, (image_id,))]

    def image(self, image_id: int) -> Record | None:
        """The record of one image; None if there is no such image."""
        row = self._db.execute("SELECT record FROM images WHERE id = ?", (image_id,)).fetchone()
        return None if row is None else dict(json.loads(row[0]))

    def annotated_ids(self) -> Iterator[int]:
        """The ids of the images that annotations refer to, each once, in order; they need not be among the images."""
        return (row[0] for row in self._db.execute("SELECT DISTINCT image_id FROM annotations ORDER BY image_id"))

    def unlisted_ids(self, number: int) -> list[int]:
        """The first ids of images that annotations refer to and that are not among the images."""
        query = "SELECT DISTINCT image_id FROM annotations WHERE image_id NOT IN (SELECT id FROM images) LIMIT ?"
        return [row[0] for row in self._db.execute(query, (number,))]

    def count_unlisted(self) -> int:
        """The number of images that annotations refer to and that are not among the images."""
        query = "SELECT count(DISTINCT image_id) FROM annotations WHERE image_id NOT IN (SELECT id FROM images)"
        return int(self._db.execute(query).fetchone()[0])

    def category_uses(self) -> list[tuple[object, int]]:
        """The category ids that annotations and segments refer to, whatever they are, with the number of their uses."""
        rows = self._db.execute("SELECT category, number FROM uses ORDER BY rowid")
        return [(json.loads(category), number) for category, number in rows]

    def left_out(self) -> dict[str, tuple[int, str]]:
        """What was left out and belongs to no image: number and an example, by reason."""
        rows = self._db.execute("SELECT reason, number, example FROM left_out ORDER BY reason")
        return {reason: (number, example) for reason, number, example in rows}

    def categories(self) -> dict[int, Record]:
        """Category records by id."""
        return {row[0]: json.loads(row[1]) for row in self._db.execute("SELECT id, record FROM categories")}


class Writer:
    """Fills a new store from a file.

    Args:
        path: the new store.
        source: name of the file that the records come from, for error messages.
    """

    def __init__(self, path: Path, source: object) -> None:
        self._source = source
        self._uses: Counter[str] = Counter()
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; BEGIN;"
            "CREATE TABLE images (id INTEGER PRIMARY KEY, record TEXT);"
            "CREATE TABLE annotations (image_id INTEGER, record TEXT);"
            "CREATE TABLE categories (id INTEGER PRIMARY KEY, record TEXT);"
            "CREATE TABLE uses (category TEXT, number INTEGER);"
            "CREATE TABLE left_out (reason TEXT PRIMARY KEY, number INTEGER, example TEXT);"
        )

    def add_images(self, records: Iterable[Record]) -> int:
        """Add image records by their "id" and return their number; an image that is listed twice alike is one.

        Raises:
            OvsegError: an id stands for two files, or for a file of two sizes.
        """
        return sum(self._add_once("images", record, _describe_image) for record in records)

    def add_annotations(self, records: Iterable[Record]) -> int:
        """Add annotation records by their "image_id" and return their number."""
        number = 0
        for record in records:
            self._execute("INSERT INTO annotations VALUES (?, ?)", (record["image_id"], json.dumps(record)))
            segments = record.get("segments_info")
            for item in segments if isinstance(segments, list) else (record,):
                if isinstance(item, dict):
                    self._uses[json.dumps(item.get("category_id"))] += 1
            number += 1
        return number

    def add_categories(self, records: Iterable[Record]) -> int:
        """Add category records by their "id" and return their number; a category that is listed twice alike is one.

        Raises:
            OvsegError: an id stands for two names.
        """
        return sum(self._add_once("categories", record, lambda category: (category["name"],)) for record in records)

    def _add_once(self, table: str, record: Record, describe: Callable[[Record], tuple[object, ...]]) -> bool:
        """Add a record unless its id is taken by one that is alike, and return whether it was added."""
        if self._execute(f"INSERT OR IGNORE INTO {table} VALUES (?, ?)", (record["id"], json.dumps(record))):  # noqa: S608
            return True
        (text,) = self._db.execute(f"SELECT record FROM {table} WHERE id = ?", (record["id"],)).fetchone()  # noqa: S608
        for first, second in zip(describe(json.loads(text)), describe(record), strict=True):
            if first != second and None not in (first, second):
                raise OvsegError(
                    f"{self._source}: the id {record['id']} of {table} stands for {first!r} and for {second!r}. Were files "
                    "joined that both count from 1, or is the id a file name that several folders have? Give every one an id "
                    "of its own; in a table, in a column that index.id_column names"
                )
        return False

    def add_left_out(self, problem: BadItem) -> None:
        """Count something that belongs to no image and is left out; the first one of each reason is the example."""
        self._execute(
            "INSERT INTO left_out VALUES (?, 1, ?) ON CONFLICT (reason) DO UPDATE SET number = number + 1",
            (problem.reason, problem.detail.encode("utf-8", "replace").decode()),
        )

    def close(self) -> None:
        """Build the index of annotations and finish the file."""
        self._execute("CREATE INDEX by_image ON annotations (image_id)")
        for category, number in self._uses.items():
            self._execute("INSERT INTO uses VALUES (?, ?)", (category, number))
        self._execute("COMMIT")
        self._db.close()

    def _execute(self, statement: str, values: tuple[object, ...] = ()) -> bool:
        """Execute a statement, and return whether it changed a row."""
        try:
            return self._db.execute(statement, values).rowcount > 0
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE):
                raise OSError(errno.ENOSPC, str(error)) from None
            raise


def _describe_image(record: Record) -> tuple[object, ...]:
    """What must be alike in two records of one image."""
    size = record.get("width"), record.get("height")
    file = str(record["file_name"]).replace("\\", "/").removeprefix("./")
    return file, None if None in size else f"{size[0]} x {size[1]} pixels", record.get("offset")


def open_store(path: Path, source: object, fill: Callable[[Writer], None]) -> Store:
    """Open the store at `path`. If it does not exist, `fill` fills it first; a fill that is killed leaves nothing behind.

    Args:
        path: the store.
        source: name of the file that the records come from, for error messages.
        fill: adds all records.
    """
    if not path.exists():
        tmp_path = path.with_name(path.name + f".{os.getpid()}.tmp")
        tmp_path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = Writer(tmp_path, source)
        try:
            with explain_write_errors(path):
                fill(writer)
                writer.close()
        except BaseException:
            tmp_path.unlink(missing_ok=True)
            raise
        tmp_path.replace(path)
    return Store(path)
