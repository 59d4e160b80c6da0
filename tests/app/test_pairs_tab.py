"""What the tab of pairs says."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovseg.app.pair_pages import PairPages
from ovseg.app.pairs_tab import build_pairs_tab
from tests.report.conftest import MadeRun

gr = pytest.importorskip("gradio", reason="the extra `app` is not installed")


def test_a_page_says_how_many_of_its_pairs_have_no_readable_image(made: MadeRun, tmp_path: Path) -> None:
    pages = PairPages(*made, tmp_path / "marks.csv")
    with gr.Blocks():
        first, _, _ = build_pairs_tab(gr, pages)
    asked = ("lowest", "", *pages.range, False)
    assert "readable" not in first(*asked)[1]
    (made[1] / "3.png").unlink()
    assert "1 of this page has no readable image" in first(*asked)[1]
    (made[1] / "2.png").unlink()
    cards, text, *_ = first(*asked)
    assert len(cards["cards"]) == 3 and "3 of this page have no readable image" in text
