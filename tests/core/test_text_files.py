"""Text files in any encoding of Unicode."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovseg.core.errors import OvsegError
from ovseg.core.text_files import read_text
from ovseg.datasets.benchmark import read_benchmark
from ovseg.mining.nouns import read_stop_list
from tests.core.test_json_files import ENCODINGS


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_text_is_read_in_its_encoding(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes("dog\nBär\n".encode(encoding))
    assert read_text(path) == "dog\nBär\n"


def test_text_in_another_encoding_is_an_error_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes("dog\nBär\n".encode("latin-1"))
    with pytest.raises(OvsegError, match=r"x\.txt.*0xe4.*line 2"):
        read_text(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lists_of_users_may_have_a_byte_order_mark(encoding: str, tmp_path: Path) -> None:
    """The stop list, the JSON and the table of a benchmark: their first entry is none other for it."""
    (tmp_path / "stop.txt").write_bytes("thing\nplace\n".encode(encoding))
    assert read_stop_list(tmp_path / "stop.txt") == {"thing", "place"}
    (tmp_path / "labels").mkdir()
    (tmp_path / "benchmark.json").write_bytes('{"names": ["dog"], "ignore": 255, "images": "i"}'.encode(encoding))
    (tmp_path / "items.tsv").write_bytes("image\tlabel\na.jpg\ta.png\n".encode(encoding))
    benchmark = read_benchmark(tmp_path)
    assert benchmark.names == (("dog",),) and benchmark.items == (("a.jpg", "a.png"),)
