"""Captions in tables: Parquet, CSV, JSON lines, folders of Hugging Face `datasets`. A format is a function in `FORMATS`.

Each row has an image file and a caption, or a list of captions; rows of the same file are captions of one image.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ovseg.core.errors import OvsegError
from ovseg.core.json_files import iter_json, read_json, whole_number
from ovseg.core.remote_files import local_copy
from ovseg.core.text_files import read_text
from ovseg.datasets.store import Record, Store, Writer, open_store
from ovseg.datasets.webdataset import image_id

HF_STATE = "state.json"  # of a folder that `Dataset.save_to_disk` wrote
HF_SPLITS = "dataset_dict.json"  # of a folder that `DatasetDict.save_to_disk` wrote: a folder like that for each split
ROWS_PER_BATCH = 4096


class Columns(NamedTuple):
    """The names of the columns.

    Attributes:
        image: path of the image, relative to the folder of images; in a folder of `datasets` also the image itself.
        caption: a caption, or a list of them.
        id: whole number that names the image; None for that in the file name, or else a hash of it.
    """

    image: str = "file_name"
    caption: str = "caption"
    id: str | None = None


Rows = Callable[[Path, Columns, Path], Iterator[Record]]
"""Reads a file or folder: a record for each row, with the values of the columns under their names. Files in object storage are
copied to the folder that is the last argument, one at a time."""


def open_table(path: Path, database: Path, columns: Columns) -> Store:
    """Open the images of a table with their captions, as the same store that COCO files give.

    Args:
        path: a file, or a folder of Parquet files or of `datasets`.
        database: file that the records are copied to; it is made if it does not exist.
        columns: the names of the columns.

    Raises:
        OvsegError: the table cannot be read, has no such column, or an image has no usable name or id.
    """
    read = FORMATS[format_of(path) or ""]

    def fill(writer: Writer) -> None:
        number = 0
        for number, row in enumerate(read(path, columns, database.parent), 1):
            _add(writer, row, columns, f"{path}: row {number}")
        if not number:
            raise OvsegError(f"{path} holds no row")

    return open_store(database, path, fill)


def format_of(path: Path) -> str | None:
    """The format of a table, a key of `FORMATS`; None if it is none of them. img2dataset puts Parquet beside its shards.

    Raises:
        OvsegError: tables are not in the folder itself, but in folders below it.
    """
    if path.is_dir():
        return _format_of_folder(path)
    name = path.suffix.lower().lstrip(".")
    return name if name in FORMATS and name != "datasets" else None


def _format_of_folder(path: Path) -> str | None:
    if (path / HF_STATE).is_file():
        return "datasets"
    if (path / HF_SPLITS).is_file():
        splits = [str(state.parent) for state in sorted(path.glob(f"*/{HF_STATE}"))]
        raise OvsegError(
            f"{path} is a data set of several splits. Give the folder of one of them as index.captions, and as index.images "
            f"if it holds the images: {', '.join(splits) or f'there is none with a {HF_STATE}'}"
        )
    if any(path.glob("*.tar")):
        return None
    if any(path.glob("*.parquet")):
        return "parquet"
    if below := sorted({str(file.parent) for file in path.rglob("*.parquet")}):
        raise OvsegError(
            f"{path} holds no Parquet file itself, and the folders below it are not looked through. Give one that does as "
            f"index.captions: {', '.join(below)}"
        )
    return None


def _add(writer: Writer, row: Record, columns: Columns, place: str) -> None:
    image, captions = row[columns.image], row[columns.caption]
    record: Record = image if isinstance(image, dict) else {"file_name": image}
    name = record.get("member") or record.get("file_name")
    if not isinstance(name, str) or not name:
        raise OvsegError(
            f"{place}: the image is {str(image)[:80]!r}; column {columns.image!r} must hold the path of a file"
        )
    stem = PurePosixPath(name).stem
    number = image_id(stem if stem.isdigit() else name) if columns.id is None else whole_number(row[columns.id])
    if number is None:
        raise OvsegError(f"{place}: the id is {row[columns.id or '']!r}; column {columns.id!r} must hold whole numbers")
    writer.add_images([{"id": number, **record}])
    captions = captions if isinstance(captions, list) else [] if captions is None else [captions]
    writer.add_annotations({"image_id": number, "caption": caption} for caption in captions)


def _check(path: Path, columns: Columns, known: Iterable[str]) -> list[str]:
    """The names of the columns to read, after checking that they are there."""
    wanted = [name for name in columns if name is not None]
    if missing := [name for name in wanted if name not in set(known)]:
        raise OvsegError(
            f"{path} has no column {missing[0]!r}; it has {', '.join(known) or 'none'}. Name them by index.image_column, "
            "index.caption_column and index.id_column"
        )
    return wanted


def _parquet_rows(path: Path, columns: Columns, scratch: Path) -> Iterator[Record]:
    for file in sorted(path.glob("*.parquet")) if path.is_dir() else [path]:
        try:
            with local_copy(file, scratch) as copy:
                table = pq.ParquetFile(copy)
                names = _check(file, columns, table.schema_arrow.names)
                if pa.types.is_struct(kind := table.schema_arrow.field(columns.image).type):
                    raise OvsegError(
                        f"{file}: column {columns.image!r} holds the images themselves ({kind}), which are not read from "
                        "Parquet. Write them to files and name a column with the paths of these by index.image_column, or "
                        "write the data set with save_to_disk of `datasets`, whose images are read in place"
                    )
                for batch in table.iter_batches(ROWS_PER_BATCH, columns=names):
                    yield from batch.to_pylist()
        except pa.ArrowException as error:
            raise OvsegError(f"{file} is no Parquet file, or damaged ({str(error).splitlines()[0]})") from None


def _csv_rows(path: Path, columns: Columns, _: Path) -> Iterator[Record]:
    rows = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        names = _check(path, columns, rows.fieldnames or ())
        for row in rows:
            yield {name: row[name] for name in names}
    except csv.Error as error:
        raise OvsegError(
            f"{path}: the row that ends in line {rows.reader.line_num} is no CSV ({error}). A value that holds a quotation "
            'mark must stand between quotation marks, and the mark be doubled: "a ""big"" dog"'
        ) from None


def _tsv_rows(path: Path, columns: Columns, _: Path) -> Iterator[Record]:
    """A row is a line; quotation marks need not be paired, as in the files of Conceptual Captions."""
    lines = io.StringIO(read_text(path), newline="")
    rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    names = _check(path, columns, rows.fieldnames or ())
    for row in rows:
        yield {name: _without_quotes(row[name]) for name in names}


def _without_quotes(value: str | None) -> str | None:
    """A value of a TSV without the quotation marks around it, if a writer has put it between some."""
    inner = value[1:-1].replace('""', "") if value and len(value) > 1 and value[0] == value[-1] == '"' else '"'
    return value if value is None or '"' in inner else value[1:-1].replace('""', '"')


def _json_rows(path: Path, columns: Columns, _: Path) -> Iterator[Record]:
    for number, row in enumerate(iter_json(path, "", lines=True), 1):
        if not isinstance(row, dict):
            raise OvsegError(f"{path}: row {number} is no object")
        _check(path, columns, row)
        yield row


def _datasets_rows(path: Path, columns: Columns, scratch: Path) -> Iterator[Record]:
    for entry in read_json(path / HF_STATE).get("_data_files", ()):
        file = path / entry["filename"]
        try:
            with local_copy(file, scratch) as copy:
                yield from _arrow_rows(copy, columns)
        except (OSError, pa.ArrowException) as error:
            raise OvsegError(f"{file} is no Arrow file, or damaged ({str(error).splitlines()[0]})") from None


def _arrow_rows(file: Path, columns: Columns) -> Iterator[Record]:
    whole = pa.memory_map(str(file)).read_buffer()
    reader = pa.ipc.open_stream(whole)
    names = _check(file, columns, reader.schema.names)
    by_path: dict[str, Record] = {}
    for number, batch in enumerate(reader):
        rows = batch.select(names)
        images = rows.column(columns.image)
        if pa.types.is_struct(images.type):
            if not {"bytes", "path"} <= {field.name for field in images.type}:
                raise OvsegError(
                    f"{file}: column {columns.image!r} is {images.type}, but must hold paths of files, or images as `datasets` "
                    "writes them: struct<bytes: binary, path: string>. Name another one by index.image_column"
                )
            records: list[Any] = _embedded(images, whole, file.name, number, by_path)
            rows = rows.drop_columns([columns.image])
            yield from (row | {columns.image: image} for row, image in zip(rows.to_pylist(), records, strict=True))
        else:
            yield from rows.to_pylist()


def _embedded(
    images: pa.StructArray, whole: pa.Buffer, file: str, batch: int, by_path: dict[str, Record]
) -> list[Record]:
    """The records of images that lie in an Arrow file: where in the file each is, so that they are read in place.

    A table with a row for each caption holds an image several times: rows of the same path and content are one image. Other
    images may have the same path, since `datasets` keeps the name of a file without its folder.

    Args:
        images: the column, with the fields `bytes` and `path`.
        whole: the file, which is mapped into memory.
        file: name of the file.
        batch: position of the batch in the file, for the names of images without a path.
        by_path: the first record of each path so far; is added to.
    """
    data, paths = images.field("bytes"), images.field("path").to_pylist()
    kind = np.int64 if pa.types.is_large_binary(data.type) else np.int32
    _, offsets, content = data.buffers()
    ends = np.frombuffer(offsets, kind)[data.offset : data.offset + len(data) + 1].astype(np.int64)
    records: list[Record] = []
    for i, (path, first, last) in enumerate(zip(paths, ends[:-1].tolist(), ends[1:].tolist(), strict=True)):
        if last == first:  # the image is a file of its own
            records.append({"file_name": path})
            continue
        start, size = content.address - whole.address + first, last - first
        record: Record = {
            "file_name": file,
            "member": f"{file}/{batch}-{i}/{path or 'image'}",
            "offset": start,
            "size": size,
        }
        if path:
            same = by_path.setdefault(path, record)
            if same["size"] == size and whole[same["offset"] : same["offset"] + size].equals(
                whole[start : start + size]
            ):
                record = same
        records.append(record)
    return records


FORMATS: dict[str, Rows] = {
    "parquet": _parquet_rows,
    "csv": _csv_rows,
    "tsv": _tsv_rows,
    "jsonl": _json_rows,
    "datasets": _datasets_rows,
}
