"""All pairs of a run: filters, order, pages, marks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ovseg.app import pair_pages
from ovseg.app.pair_pages import Filters, PairPages
from ovseg.mining.wrong_pairs import WrongPair, read_wrong_pairs
from tests.report.conftest import MadeRun


@pytest.fixture
def pages(made: MadeRun, tmp_path: Path) -> PairPages:
    return PairPages(*made, tmp_path / "marks" / "wrong.csv")


def numbers(pages: PairPages, **filters: Any) -> list[int]:
    return list(pages.matches(Filters(**filters))["pair"].to_pylist())


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, [4, 3, 1, 2, 0, 5]),
        ({"order": "highest"}, [0, 2, 1, 3, 4, 5]),
        ({"order": "noun"}, [0, 1, 2, 4, 3, 5]),
        ({"noun": " CAT "}, [1, 2]),
        ({"noun": "a"}, [3, 1, 2, 5]),
        ({"noun": "zebra"}, []),
        ({"low": 0.2, "high": 0.3}, [1, 2]),
        ({"low": 0.12, "high": 0.31}, [4, 3, 1, 2, 0, 5]),
    ],
)
def test_filters_and_orders_are_those_of_the_pair_browser(
    filters: dict[str, Any], expected: list[int], pages: PairPages
) -> None:
    assert numbers(pages, **filters) == expected


def test_pages_hold_all_pairs_in_order(pages: PairPages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_pages, "PAGE", 4)
    shown = [pages.page(Filters(), number) for number in range(3)]
    assert [[card["noun"] for card in cards] for cards, _ in shown] == [
        ["dog", "mat", "cat", "cat"],
        ["bus", "wall"],
        [],
    ]
    assert {total for _, total in shown} == {6}


def test_marks_are_written_for_select_and_found_again(pages: PairPages, made: MadeRun) -> None:
    assert pages.mark(WrongPair(2, "cat", 0), True) and pages.mark(WrongPair(3, "bus", 0), True)
    assert pages.mark(WrongPair(3, "bus", 0), False)
    assert read_wrong_pairs(pages.marks) == {WrongPair(2, "cat", 0)}
    again = PairPages(*made, pages.marks)
    assert [card["wrong"] for card in again.page(Filters(noun="cat"), 0)[0]] == [False, True]
    assert numbers(again, marked=True) == [2]


def test_a_pair_that_the_run_does_not_have_is_not_marked(pages: PairPages) -> None:
    assert not pages.mark(WrongPair(2, "cat", 1), True)
    assert not pages.marks.exists()
