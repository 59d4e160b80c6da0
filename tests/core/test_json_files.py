"""JSON of users: every encoding of Unicode, NaN, several values in a file, and errors that say what is broken and where."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ovseg.core import json_files
from ovseg.core.errors import OvsegError
from ovseg.core.json_files import first_value, iter_json, parse_json, read_json, top_level_keys, whole_number

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be")
numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
json_value = st.recursive(
    st.none() | st.booleans() | numbers | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("json") / "x.json"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.lists(json_value), st.sampled_from(ENCODINGS), st.booleans())
def test_json_in_any_encoding_is_what_was_written(
    path: Path, value: list[Any], encoding: str, ascii_only: bool
) -> None:
    path.write_bytes(json.dumps({"a": value}, ensure_ascii=ascii_only).encode(encoding))
    assert read_json(path) == {"a": value}
    assert list(iter_json(path, "a.item")) == value


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    st.lists(st.floats() | st.text(alphabet='"\\, :[]NaInfity-', max_size=12) | st.integers(0, 9), max_size=40),
    st.sampled_from(ENCODINGS),
    st.integers(1, 40),
)
def test_nan_and_infinity_are_read_wherever_chunks_end(path: Path, value: list[Any], encoding: str, chunk: int) -> None:
    """And a part of a text that looks like one stays as it is."""
    path.write_bytes(json.dumps(value).encode(encoding))
    before, json_files.CHUNK = json_files.CHUNK, 4 * chunk
    try:
        streamed = list(iter_json(path, "item"))
    finally:
        json_files.CHUNK = before
    assert json.dumps(streamed) == json.dumps(value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.binary(max_size=40) | st.text(max_size=20).map(str.encode))
def test_any_bytes_are_json_or_an_error_of_the_user(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    for read in (read_json, lambda p: list(iter_json(p, "")), first_value, top_level_keys):
        with contextlib.suppress(OvsegError):
            read(path)


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (b"", ["empty"]),
        (b" \n", ["empty"]),
        (gzip.compress(b"{}", mtime=0), ["gzip"]),
        (b"PK\x03\x04....", ["zip"]),
        (b"<!DOCTYPE html><html>", ["HTML"]),
        (codecs.BOM_UTF8 + b"<?xml?>", ["HTML or XML"]),
        (b"version https://git-lfs.github.com/spec/v1\noid", ["Git LFS"]),
        (b"PAR1....", ["Parquet"]),
        (b"{'a': 1}", ["line 1", "{'a'"]),
        (b'{\n"a": 1,\n"b": 2,\n}', ["line 4"]),
        (b'{"a": 1\n "b": 2}', ["line 2"]),
        (b'{"a": [1, 2} }', ["line 1"]),
        (b'{"a": nan}', ["line 1"]),
        (b'{"a": 1} trailing', ["line 1", "trailing"]),
        (b'{"a":\n "tab\there"}', ["line 2"]),
        ('{"a":\n "\u00e4"}'.encode("latin-1"), ["line 2"]),
        (b'{"a": "\\x41"}', ["line 1"]),
        (codecs.BOM_UTF8 + b'{"a"\n: ]}', ["line 2"]),
        ('{"a"\n: ]}'.encode("utf-16"), ["line 2"]),
    ],
)
def test_what_is_broken_is_said_with_its_place(data: bytes, parts: list[str], path: Path) -> None:
    """And it is not said that a download was cut off, since the end is there."""
    path.write_bytes(data)
    for read in (read_json, lambda p: list(iter_json(p, "a"))):
        with pytest.raises(OvsegError) as raised:
            read(path)
        message = str(raised.value)
        assert all(part in message for part in (str(path), *parts)) and "cut off" not in message


@pytest.mark.parametrize("before", ["", codecs.BOM_UTF8.decode(), '{"b": [1, 2]}, ' * 9000])
def test_the_byte_of_a_mistake_is_the_byte_in_the_file(before: str, path: Path) -> None:
    """Also behind a byte order mark, and in a later chunk."""
    bom, text = before if before.startswith("\ufeff") else "", "" if before.startswith("\ufeff") else before
    data = (bom + "[" + text + '"good", ?]').encode()
    path.write_bytes(data)
    with pytest.raises(OvsegError, match=rf"byte {data.index(b'?'):,} in line 1, near .*good.*\?"):
        list(iter_json(path, "item"))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ['{"a": [1, 2', '{"a": [1, "te', '{"a": [1], "b', '{"a": '])
def test_a_missing_end_is_said_to_be_missing(encoding: str, end: str, path: Path) -> None:
    """For every encoding, also if the file ends inside a letter."""
    whole = end.encode(encoding)
    for data in [whole, whole[:-1]] if "16" in encoding or "32" in encoding else [whole]:
        path.write_bytes(data)
        for read in (read_json, lambda p: list(iter_json(p, "a.item"))):
            with pytest.raises(OvsegError, match=r"cut off|end of the file is missing"):
                read(path)


def test_zero_bytes_at_the_end_are_an_unfinished_download(path: Path) -> None:
    """Tools that reserve the space of a file leave zeros where the rest of it should be."""
    path.write_bytes(b'{"a": [1, 2, 3' + b"\0" * 200_000)
    for read in (read_json, lambda p: list(iter_json(p, "a.item"))):
        with pytest.raises(OvsegError, match="cut off"):
            read(path)


def test_values_one_after_the_other_are_lines(path: Path) -> None:
    path.write_text('{"a": 1}\n\n{"a": 2}\r\n{"a": null}')
    assert list(iter_json(path, "", lines=True)) == [{"a": 1}, {"a": 2}, {"a": None}]
    assert first_value(path) == ({"a": 1}, "{")
    path.write_text('{"a": 1}\n{"a": 2')
    with pytest.raises(OvsegError, match="cut off"):
        list(iter_json(path, "", lines=True))
    path.write_text('{"a": 1}\n{"a": }\n{"a": 3}')
    with pytest.raises(OvsegError, match="line 2"):
        list(iter_json(path, "", lines=True))


def test_the_first_value_and_the_keys_of_long_files(path: Path) -> None:
    path.write_text(json.dumps({"images": list(range(300_000)), "annotations": {"images": 1}}))
    assert first_value(path) == (None, "{")
    assert top_level_keys(path) == ["images", "annotations"]
    path.write_text(" [1, 2]  ")
    assert first_value(path) == ([1, 2], "") and top_level_keys(path) == []


def test_another_default_encoding_is_for_files_that_tell_none() -> None:
    text = '{"a": "café"}'
    assert parse_json(text.encode("latin-1"), "x", "latin-1") == {"a": "café"}
    assert parse_json(text.encode("utf-16"), "x", "latin-1") == {"a": "café"}
    assert parse_json(text.encode("utf-8-sig"), "x", "latin-1") == {"a": "café"}


@given(st.integers(-(2**63) + 1, 2**63 - 1))
def test_whole_numbers_are_read_from_every_spelling(number: int) -> None:
    zeros = f"{number:030d}"
    for spelling in (number, str(number), f" {number} ", f"{number}.0", f"{number}.", zeros):
        assert whole_number(spelling) == number
    if abs(number) < 2**53:
        assert whole_number(float(number)) == number


@pytest.mark.parametrize(
    "value",
    [None, True, "", "a", "1.5", 1.5, "1e3", "0x1", "1_000", "1,000", [1], {}, 2**63, "9" * 30, math.nan, math.inf],
)
def test_what_is_no_whole_number_is_none(value: Any) -> None:
    assert whole_number(value) is None
