"""Reads that fail for a moment are tried again; what has failed for good is not."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from ovseg.core import retries
from ovseg.core.errors import BadItem
from ovseg.core.images import read_bytes

UNREADABLE = "/proc/self/mem"  # a file that exists, and whose first byte gives an input/output error


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A file that cannot be read for now."""
    if not Path(UNREADABLE).exists():
        pytest.skip("this system has no /proc")
    (tmp_path / "image.jpg").symlink_to(UNREADABLE)
    return tmp_path / "image.jpg"


def test_an_error_that_stays_is_unreadable(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "PAUSES", (0.01, 0.01))
    with pytest.raises(BadItem, match="Input/output error, in 3 tries") as caught:
        read_bytes(broken.parent, broken.name)
    assert caught.value.reason == "unreadable"
    assert retries.may_pass({"images": 3, "dropped.unreadable": 1}) and not retries.may_pass({"dropped.missing": 1})


def test_an_error_that_passes_costs_nothing(broken: Path) -> None:
    def mend() -> None:
        time.sleep(0.1)
        broken.with_suffix(".new").write_bytes(b"whole")
        os.replace(broken.with_suffix(".new"), broken)  # noqa: PTH105

    thread = threading.Thread(target=mend)
    thread.start()
    assert read_bytes(broken.parent, broken.name) == b"whole"
    thread.join()


def test_what_is_not_there_is_missing_at_once(tmp_path: Path) -> None:
    started = time.monotonic()
    for name in ("none.jpg", "none/none.jpg", "."):
        with pytest.raises(BadItem) as caught:
            read_bytes(tmp_path, name)
        assert caught.value.reason in ("missing", "unsafe_path")
    assert time.monotonic() - started < retries.PAUSES[0]
