"""Marks of wrong pairs: what is read, and that one mark changes one line."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from ovseg.core.errors import OvsegError
from ovseg.mining.wrong_pairs import WrongPair, mark_wrong_pair, read_wrong_pairs


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("image_id,noun\n1,dog\n", "no column proposal"),
        ("image_id,noun,proposal\n1,dog,4\nx,dog,4\n", "line 3"),
        ("image_id,noun,proposal\n1,dog\n", "line 2"),
    ],
)
def test_a_file_of_wrong_pairs_that_is_none_is_an_error(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "marks.csv").write_text(text, encoding="utf-8")
    with pytest.raises(OvsegError, match=problem):
        read_wrong_pairs(tmp_path / "marks.csv")


def test_marked_pairs_are_read_as_they_were_written(tmp_path: Path) -> None:
    pairs, marks = (
        {WrongPair(7, 'a "tall", thin\nbus', 3), WrongPair(2**40, "\U0001f415", 0)},
        tmp_path / "sub" / "marks.csv",
    )
    for pair in pairs:
        mark_wrong_pair(marks, pair, True)
    assert read_wrong_pairs(marks) == pairs


def test_a_mark_keeps_what_others_wrote_into_the_file(tmp_path: Path) -> None:
    marks = tmp_path / "marks.csv"
    assert mark_wrong_pair(marks, WrongPair(2, "dog", 4), True) == {WrongPair(2, "dog", 4)}
    marks.write_text("who,noun,proposal,image_id\nme,dog,4,2\nyou,cat,0,1\n", encoding="utf-8")
    mark_wrong_pair(marks, WrongPair(3, "sky", 1), True)
    mark_wrong_pair(marks, WrongPair(1, "cat", 0), True)
    kept = "who,noun,proposal,image_id\nyou,cat,0,1\nme,dog,4,2\n"
    assert marks.read_text(encoding="utf-8") == f"{kept},sky,1,3\n"
    mark_wrong_pair(marks, WrongPair(3, "sky", 1), False)
    assert marks.read_text(encoding="utf-8") == kept


def test_marks_that_are_set_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    pairs = [WrongPair(i, "dog", 0) for i in range(40)]
    with ProcessPoolExecutor(4) as pool:
        list(pool.map(partial(mark_wrong_pair, tmp_path / "marks.csv", wrong=True), pairs))
    assert read_wrong_pairs(tmp_path / "marks.csv") == set(pairs)
