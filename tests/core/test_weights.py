"""The record of weights: sha256 and revision of the files that they were read from."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from ovseg.core import weights


def test_a_changed_file_has_another_sha256(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"1")
    second.write_bytes(b"2")
    assert weights.sha256(first) == hashlib.sha256(b"1").hexdigest()
    assert weights.sha256(first, second) not in (weights.sha256(first), weights.sha256(second, first))
    first.write_bytes(b"10")
    assert weights.sha256(first) == hashlib.sha256(b"10").hexdigest()
    assert weights.identify("m", "p", [first]) == weights.Weights("m", "p", "file", None, weights.sha256(first))


@pytest.mark.parametrize("path", ["a.bin", "/x/snapshots/abc/a.bin", "snapshots/abc/a.bin"])
def test_a_file_outside_the_hubs_cache_has_no_repository_and_no_revision(path: str) -> None:
    assert weights.revision(Path(path)) is None and weights.repository(Path(path)) is None
