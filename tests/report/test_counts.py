"""The counts of all steps of mining in one dict."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovseg.core.errors import OvsegError
from ovseg.report.counts import collect_counts
from tests.report.conftest import MadeRun


def test_the_counts_of_all_steps_are_collected(made: MadeRun) -> None:
    run = made[0]
    folders = {
        "index": run / "index",
        "nouns": run / "nouns",
        "propose": run / "proposals",
        "score": run / "candidates",
        "select": run / "pairs",
        "shards": run / "shards",
    }
    assert collect_counts(folders) == {
        "images": 4,
        "captions": 4,
        "nouns": 5,
        "unique_nouns": 4,
        "proposals": 8,
        "candidates": 5,
        "pairs": 6,
        "samples": 6,
        "dropped": {"index.missing": 1, "nouns.stop_noun": 3, "nouns.repeated": 2},
    }
    assert collect_counts({"index": run / "index"}) == {"images": 4, "captions": 4, "dropped": {"index.missing": 1}}


def test_a_name_that_is_not_a_step_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OvsegError, match="candidates"):
        collect_counts({"candidates": tmp_path})
