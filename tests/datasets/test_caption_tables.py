"""Captions in tables: every format gives the same index, with columns of any name."""

from __future__ import annotations

import csv
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ovseg.core import tables
from ovseg.core.errors import OvsegError
from ovseg.core.image_records import read_image_records
from ovseg.core.options import IndexOptions
from ovseg.engine.runtime import Runtime
from ovseg.mining.index import build_index

ROWS = [("7.png", "a red kite", 7), ("deep/b.png", 'a boat, "white"', 9), ("7.png", "a kite", 7)]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images" / "deep").mkdir(parents=True)
    for number, name in enumerate(("7.png", "deep/b.png")):
        Image.fromarray(np.full((8, 9, 3), number, np.uint8)).save(tmp_path / "images" / name)
    return tmp_path / "images"


def _table() -> pa.Table:
    return pa.table(dict(zip(("path", "text", "number"), map(list, zip(*ROWS, strict=True)), strict=True)))


def write_parquet(folder: Path) -> Path:
    pq.write_table(_table(), folder / "captions.parquet")
    return folder / "captions.parquet"


def write_parquet_folder(folder: Path) -> Path:
    (folder / "parts").mkdir()
    for i in range(3):
        pq.write_table(_table()[i : i + 1], folder / "parts" / f"{i}.parquet")
    return folder / "parts"


def write_separated(folder: Path, suffix: str, delimiter: str) -> Path:
    with (folder / f"captions.{suffix}").open("w", newline="") as stream:
        csv.writer(stream, delimiter=delimiter).writerows([("path", "text", "number"), *ROWS])
    return folder / f"captions.{suffix}"


def write_json_lines(folder: Path) -> Path:
    lines = [json.dumps({"path": path, "text": [text], "number": number}) for path, text, number in ROWS]
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return folder / "captions.jsonl"


def write_arrow(folder: Path, table: pa.Table) -> Path:
    """A folder as `Dataset.save_to_disk` writes it."""
    (folder / "hf").mkdir()
    with (
        pa.OSFile(str(folder / "hf" / "data-00000-of-00001.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as out,
    ):
        out.write_table(table, max_chunksize=2)
    (folder / "hf" / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    return folder / "hf"


WRITERS: dict[str, Callable[[Path], Path]] = {
    "parquet": write_parquet,
    "parts": write_parquet_folder,
    "csv": lambda folder: write_separated(folder, "csv", ","),
    "tsv": lambda folder: write_separated(folder, "tsv", "\t"),
    "jsonl": write_json_lines,
    "datasets": lambda folder: write_arrow(folder, _table()),
}


def indexed(images: Path, captions: Path, runtime: Runtime, **columns: Any) -> dict[int, dict[str, Any]]:
    out = captions.parent / "index"
    options = IndexOptions(images=images, captions=captions, image_column="path", caption_column="text", **columns)
    build_index(out, runtime, options)
    return {row["image_id"]: row for row in tables.rows(out, "index")}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_index(name: str, images: Path, tmp_path: Path, runtime: Runtime) -> None:
    rows = indexed(images, WRITERS[name](tmp_path), runtime, id_column="number")
    found = {i: (row["file"], [caption["text"] for caption in row["captions"]]) for i, row in rows.items()}
    assert found == {7: ("7.png", ["a red kite", "a kite"]), 9: ("deep/b.png", ['a boat, "white"'])}
    assert all(row["problem"] is None for row in rows.values())


def test_ids_come_from_the_names_of_files_where_there_are_none(images: Path, tmp_path: Path, runtime: Runtime) -> None:
    """A number as in COCO's file names, or else a hash, which is the same whatever else the table holds."""
    rows = indexed(images, write_parquet(tmp_path), runtime)
    assert 7 in rows and len(rows) == 2 and max(rows) > 2**31


def test_images_in_a_dataset_of_hugging_face_are_read_in_place(images: Path, tmp_path: Path, runtime: Runtime) -> None:
    """Their bytes in the Arrow file are those of the files, in every batch of rows."""
    names = ["7.png", "deep/b.png", "7.png"]
    embedded = [{"bytes": (images / name).read_bytes(), "path": None} for name in names]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    folder = write_arrow(tmp_path, pa.table({"path": pa.array(embedded, kind), "text": ["one", "two", "three"]}))
    rows = indexed(folder, folder, runtime)
    assert sorted(row["captions"][0]["text"] for row in rows.values()) == ["one", "three", "two"]
    records = {record.image_id: record for record in read_image_records(tmp_path / "index" / "00000.parquet", folder)}
    by_text = {row["captions"][0]["text"]: records[i].pixels for i, row in rows.items()}
    for text, name in zip(("one", "two", "three"), names, strict=True):
        assert np.array_equal(by_text[text], np.asarray(Image.open(images / name)))


def test_rows_of_one_embedded_image_are_its_captions(images: Path, tmp_path: Path, runtime: Runtime) -> None:
    """Rows of the same path and content are one image; another image may have the same path."""
    first, second = ((images / name).read_bytes() for name in ("7.png", "deep/b.png"))
    embedded = [{"bytes": data, "path": "kite.png"} for data in (first, first, second, first)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"path": pa.array(embedded, kind), "text": ["one", "two", "three", "four"]})
    folder = write_arrow(tmp_path, table)
    rows = indexed(folder, folder, runtime)
    captions = sorted([caption["text"] for caption in row["captions"]] for row in rows.values())
    assert captions == [["one", "two", "four"], ["three"]]


def test_a_tsv_needs_no_pairs_of_quotation_marks(images: Path, tmp_path: Path, runtime: Runtime) -> None:
    captions = ['"', '5" of snow', '"a "big" dog"', '"a ""big"" dog"', '"quoted"', "plain"]
    path = tmp_path / "captions.tsv"
    path.write_text("path\ttext\n" + "".join(f"7.png\t{caption}\n" for caption in captions))
    (row,) = indexed(images, path, runtime).values()
    assert [caption["text"] for caption in row["captions"]] == [*captions[:3], 'a "big" dog', "quoted", "plain"]


@pytest.mark.parametrize("caption", ['"a kite', '"a" kite'])
def test_a_quotation_mark_that_breaks_a_csv_is_an_error_with_its_line(
    caption: str, images: Path, tmp_path: Path, runtime: Runtime
) -> None:
    path = tmp_path / "captions.csv"
    path.write_text(f"path,text\n7.png,a boat\n7.png,{caption}\n")
    with pytest.raises(
        OvsegError, match=r"captions\.csv: the row that ends in line 3 is no CSV .* the mark be doubled"
    ):
        indexed(images, path, runtime)


def test_columns_that_are_named_count_in_json_lines_with_the_keys_of_coco(
    images: Path, tmp_path: Path, runtime: Runtime
) -> None:
    path = tmp_path / "captions.jsonl"
    path.write_text(json.dumps({"image_id": "x", "file_name": "7.png", "path": "deep/b.png", "text": "a boat"}))
    (row,) = indexed(images, path, runtime).values()
    assert (row["file"], [caption["text"] for caption in row["captions"]]) == ("deep/b.png", ["a boat"])


def test_a_data_set_of_several_splits_is_refused_with_the_folders_to_give(
    images: Path, tmp_path: Path, runtime: Runtime
) -> None:
    """`DatasetDict.save_to_disk` writes a folder for each split; the folder that is named can be given."""
    splits = tmp_path / "splits"
    splits.mkdir()
    (splits / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(
        OvsegError, match=r"splits is a data set of several splits\..*: there is none with a state\.json"
    ):
        indexed(images, splits, runtime)
    for name in ("train", "test"):
        write_arrow(tmp_path, _table()).rename(splits / name)
    with pytest.raises(OvsegError, match=f"index.captions, .*: {splits / 'test'}, {splits / 'train'}$"):
        indexed(images, splits, runtime)
    assert len(indexed(images, splits / "train", runtime)) == 2


@pytest.mark.parametrize("depth", ["data", "en/train"])
def test_parquet_in_folders_below_is_refused_with_the_folders_to_give(
    depth: str, images: Path, tmp_path: Path, runtime: Runtime
) -> None:
    """The layout of repositories on the Hub, whose splits lie side by side."""
    folder = tmp_path / "hub" / depth
    folder.mkdir(parents=True)
    write_parquet(folder)
    with pytest.raises(OvsegError, match=f"hub holds no Parquet file itself, .* as index.captions: {folder}$"):
        indexed(images, tmp_path / "hub", runtime)
    assert len(indexed(images, folder, runtime)) == 2


@pytest.mark.parametrize("data", [b"JPEG", None], ids=["bytes", "path"])
def test_images_in_parquet_are_refused_with_the_column_and_a_remedy(
    data: bytes | None, images: Path, tmp_path: Path, runtime: Runtime
) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    column = pa.array([{"bytes": data, "path": "7.png"}], kind)
    path = tmp_path / "train-00000-of-00001.parquet"
    pq.write_table(pa.table({"path": column, "text": ["a kite"]}), path)
    message = rf"{path}: column 'path' holds the images themselves \(struct<bytes.*index\.image_column.*save_to_disk"
    with pytest.raises(OvsegError, match=message):
        indexed(images, path, runtime)


def test_an_image_that_is_an_object_of_another_kind_is_refused(images: Path, tmp_path: Path, runtime: Runtime) -> None:
    folder = write_arrow(tmp_path, pa.table({"path": [{"url": "x"}], "text": ["a kite"]}))
    with pytest.raises(OvsegError, match=r"arrow: column 'path' is struct<url: string>, but must hold paths of files"):
        indexed(images, folder, runtime)
    lines = tmp_path / "captions.jsonl"
    lines.write_text(json.dumps({"path": {"url": "x"}, "text": "a kite"}))
    with pytest.raises(OvsegError, match=r"row 1: the image is \"{'url': 'x'}\"; column 'path' must hold the path"):
        indexed(images, lines, runtime)


def test_parquet_beside_shards_is_no_table_of_captions(images: Path, tmp_path: Path, runtime: Runtime) -> None:
    """img2dataset writes what it downloaded, with its status, beside each shard."""
    shards = tmp_path / "shards"
    shards.mkdir()
    (tmp_path / "7.txt").write_text("a red kite")
    with tarfile.open(shards / "00000.tar", "w") as out:
        out.add(images / "7.png", "000000007.png")
        out.add(tmp_path / "7.txt", "000000007.txt")
    pq.write_table(pa.table({"key": ["000000007"], "status": ["success"]}), shards / "00000.parquet")
    rows = indexed(shards, shards, runtime)
    assert [caption["text"] for caption in rows[7]["captions"]] == ["a red kite"]


def test_what_cannot_be_read_is_said(images: Path, tmp_path: Path, runtime: Runtime) -> None:
    path = write_parquet(tmp_path)
    with pytest.raises(OvsegError, match="has no column 'file_name'; it has path, text, number"):
        build_index(tmp_path / "index", runtime, IndexOptions(images=images, captions=path))
    with pytest.raises(OvsegError, match=r"row 1: the id is '7\.png'; column 'path' must hold whole numbers"):
        indexed(images, path, runtime, id_column="path")
    path.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(OvsegError, match="is no Parquet file, or damaged"):
        indexed(images, path, runtime)
