"""What `ovseg app` finds for its page."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovseg.app.pair_pages import Filters
from ovseg.cli.browser_app import find_pairs
from ovseg.core.errors import OvsegError
from ovseg.core.files import write_json
from ovseg.core.paths import to_path
from ovseg.mining.wrong_pairs import WrongPair, read_wrong_pairs
from tests.object_storage import upload
from tests.report.conftest import MadeRun, made

__all__ = ["made"]


def test_the_pairs_of_a_run_in_object_storage_have_images_and_marks_on_this_machine(
    made: MadeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    upload(made[1], to_path("memory://app/images"))
    write_json(made[0] / "run.json", {"options": {"index": {"images": "memory://app/images"}}})
    pages = find_pairs(upload(made[0], to_path("memory://app/run")), None, None)
    assert len(pages.page(Filters(), 0)[0]) == 6
    pages.mark(WrongPair(2, "cat", 0), True)
    assert read_wrong_pairs(tmp_path / "wrong_pairs.csv") == {WrongPair(2, "cat", 0)}


def test_marks_at_a_url_are_refused(made: MadeRun) -> None:
    with pytest.raises(OvsegError, match="give a file of this machine"):
        find_pairs(made[0], made[1], to_path("memory://app/marks.csv"))
