"""The page in a real browser: it fits phones, and its texts can be read on light, dark and printed pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovseg.report.charts import NUM_COLORS, Chart, bar_chart
from ovseg.report.metric_tables import Section
from ovseg.report.overlays import make_sheet
from ovseg.report.page import Gallery, write_page
from tests.chromium import in_browser

pytestmark = in_browser
MODELS = ("base", "finetune", "prompt")


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with a chart in all colors, sheets with many panels, and wide tables, of which one is closed."""
    bars = [(str(i), i / NUM_COLORS) for i in range(NUM_COLORS)]
    chart = Chart(
        "Chart", "text", bar_chart([("a long name of a class", bars)], {str(i): i for i in range(NUM_COLORS)})
    )
    names = [f"class {i}" for i in range(30)]
    labels = np.arange(30, dtype=np.uint16).repeat(40).reshape(30, 40)
    sheet = make_sheet("one", np.zeros((30, 40, 3), np.uint8), dict.fromkeys(("gt", *MODELS), labels), names, "wrong")
    cells = [["model", *(f"metric_{i}" for i in range(12))], ["base", *["12.3"] * 12]]
    path = tmp_path_factory.mktemp("page") / "index.html"
    gallery, sections = Gallery("Images", "text", [sheet]), [Section(title, "text", cells) for title in ("A", "B")]
    write_page(path, dict.fromkeys(MODELS, "50.0%"), [chart], [gallery], sections)
    return path


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_and_axe_finds_nothing(width: int, scheme: str, chromium: Any, page_file: Path) -> None:
    from axe_playwright_python.sync_playwright import Axe

    size = {"width": width, "height": 900}
    # axe is a script, and the page allows none
    context = chromium.new_context(viewport=size, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    violations = Axe().run(page).response["violations"]
    context.close()
    assert not [(one["id"], one["nodes"][0]["html"]) for one in violations]


def test_print_is_light_with_the_colors_of_the_charts_and_closed_tables(chromium: Any, page_file: Path) -> None:
    context = chromium.new_context(color_scheme="dark", viewport={"width": 794, "height": 1123})  # A4
    page = context.new_page()
    page.emulate_media(media="print")
    page.goto(page_file.as_uri())
    text = page.evaluate("getComputedStyle(document.querySelector('h2')).color")
    bars = page.evaluate("[...document.querySelectorAll('.group rect')].map((bar) => getComputedStyle(bar).fill)")
    closed = page.evaluate("document.querySelector('details td').getBoundingClientRect().height")
    width = page.evaluate("document.documentElement.scrollWidth")
    context.close()
    assert sum(int(value) for value in text[4:-1].split(",")) < 150
    assert len(set(bars)) == NUM_COLORS and "rgb(0, 0, 0)" not in bars
    assert closed > 0 and width <= 794
