"""Tables: one schema each, equal bytes for equal rows, and errors for other files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ovseg.core import tables
from ovseg.core.errors import OvsegError

NOUN = {"image_id": 7, "noun": "dog", "caption_id": 70, "start": 2, "end": 5}


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    """Writing and reading is the identity for every table, with nulls for values that are not given."""
    for name, schema in tables.SCHEMAS.items():
        path = tmp_path / name / "00000.parquet"
        path.parent.mkdir()
        tables.write_part(path, name, [{}], "f")
        assert tables.read_part(path, name).to_pylist() == [dict.fromkeys(schema.names)]
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(np.array([0.6, 0.8], np.float16)), 2)
    table = pa.table([pa.array([7]), pa.array([3]), fixed], tables.REGIONS.names)
    tables.write_part(tmp_path / "regions" / "00001.parquet", "regions", table, "f", width=2)
    assert tables.read_part(tmp_path / "regions" / "00001.parquet", "regions")["vector"].type == fixed.type
    tables.write_part(tmp_path / "nouns" / "00001.parquet", "nouns", [NOUN], "f")
    assert list(tables.rows(tmp_path / "nouns", "nouns"))[1] == NOUN
    assert tables.read(tmp_path / "nouns", "nouns", ["noun"]).to_pylist() == [{"noun": None}, {"noun": "dog"}]


def test_the_same_rows_are_the_same_bytes(tmp_path: Path) -> None:
    """From rows and from an Arrow table, byte for byte."""
    for place, rows in enumerate(([NOUN], [NOUN], pa.Table.from_pylist([NOUN], tables.NOUNS))):
        tables.write_part(tmp_path / f"{place}.parquet", "nouns", rows, "f")
    assert len({(tmp_path / f"{place}.parquet").read_bytes() for place in range(3)}) == 1


@pytest.mark.parametrize("row", [{"image_id": "seven"}, {"image_id": 2**63}, {"noun": 3}, {"start": 2**31}])
def test_a_value_of_the_wrong_type_is_not_written(row: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises((pa.ArrowInvalid, pa.ArrowTypeError, OverflowError)):
        tables.write_part(tmp_path / "x.parquet", "nouns", [{**NOUN, **row}], "f")


def test_another_table_version_or_file_is_refused(tmp_path: Path) -> None:
    """Another table, another version, another Parquet file, and a damaged or truncated file are errors."""
    path = tmp_path / "x.parquet"
    tables.write_part(path, "nouns", [NOUN], "f")
    with pytest.raises(OvsegError, match=r"'nouns'.*'pairs'"):
        tables.read_part(path, "pairs")
    content = path.read_bytes()
    pq.write_table(pa.table({"image_id": [1]}), path)
    with pytest.raises(OvsegError, match="None"):
        tables.read_part(path, "nouns")
    schema = tables.NOUNS.with_metadata({"ovseg.table": "nouns", "ovseg.schema": "999"})
    pq.write_table(pa.Table.from_pylist([NOUN], schema), path)
    with pytest.raises(OvsegError, match="schema '999'"):
        tables.read_part(path, "nouns")
    for data in (b"", b"PAR1", content[:-20], content[20:], b"hello" * 100):
        path.write_bytes(data)
        with pytest.raises(OvsegError, match="cannot be read as Parquet"):
            tables.read_part(path, "nouns")


def test_a_folder_of_an_older_version_is_named_and_not_read(tmp_path: Path) -> None:
    path = tmp_path / "nouns" / "x.parquet"
    path.parent.mkdir()
    schema = tables.NOUNS.with_metadata({"ovseg.table": "nouns", "ovseg.schema": "1"})
    pq.write_table(pa.Table.from_pylist([NOUN], schema), path)
    with pytest.raises(OvsegError, match=rf"{path.parent} .*schema 1\b.*schema {tables.SCHEMA_VERSION}\b"):
        tables.read_part(path, "nouns")


def test_a_folder_without_parts_says_what_to_do(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "gone"):
        with pytest.raises(OvsegError, match="run the step that writes it"):
            tables.parts(folder)


def test_the_fingerprint_depends_on_every_part(tmp_path: Path) -> None:
    """It changes with one part and with the number of parts; a folder without a manifest has no counts."""
    fingerprints = []
    for values in (["a", "b"], ["a", "c"], ["a", "b", "b"]):
        for number, value in enumerate(values):
            tables.write_part(tmp_path / f"{number:05d}.parquet", "nouns", [NOUN], value)
        fingerprints.append(tables.fingerprint(tmp_path, "nouns"))
    assert len(set(fingerprints)) == 3
    assert tables.read_step_manifest(tmp_path) == {} and tables.read_counts(tmp_path) == {}


def test_a_part_may_say_which_models_made_it(tmp_path: Path) -> None:
    """The metadata is kept; without it the bytes of a part do not change."""
    with_models, plain, default = (
        tmp_path / name for name in ("with_models.parquet", "plain.parquet", "default.parquet")
    )
    tables.write_part(with_models, "nouns", [NOUN], "f", {"ovseg.clip": '{"model": "m"}'})
    tables.write_part(plain, "nouns", [NOUN], "f", {})
    tables.write_part(default, "nouns", [NOUN], "f")
    assert tables.check_part(with_models, "nouns")["ovseg.clip"] == '{"model": "m"}'
    assert "ovseg.clip" not in tables.check_part(plain, "nouns") and plain.read_bytes() == default.read_bytes()
    assert (
        tables.read_part(with_models, "nouns").to_pylist() == tables.read_part(default, "nouns").to_pylist() == [NOUN]
    )


def test_parts_are_in_the_order_of_their_numbers_whatever_their_length(tmp_path: Path) -> None:
    for number in (100_001, 99_999, 3, 100_000):
        (tmp_path / f"{number:05d}.parquet").touch()
    assert [int(path.stem) for path in tables.parts(tmp_path)] == [3, 99_999, 100_000, 100_001]


def test_the_maps_beside_a_panoptic_json_are_part_of_its_hash(tmp_path: Path) -> None:
    path, maps = tmp_path / "panoptic.json", tmp_path / "panoptic"
    path.write_text("{}")
    hashes = [tables.annotations_hash(path)]
    maps.mkdir()
    for content in (b"one", b"two"):
        (maps / "1.png").write_bytes(content)
        hashes.append(tables.annotations_hash(path))
    assert len(set(hashes)) == 3
    assert hashes[0] == tables.content_hash(path) and tables.annotations_hash(maps) == tables.content_hash(maps)
