"""The page, its charts and the overlay sheets: self-contained, escaped, readable in print and dark, a panel for each map."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from ovseg.report.charts import NUM_COLORS, Chart, bar_chart, class_bars, run_charts
from ovseg.report.metric_tables import Section
from ovseg.report.overlays import Sheet, draw_sheet, make_sheet
from ovseg.report.page import Gallery, write_page

CHART = Chart("Chart", "text", bar_chart([("a", [("x", 0.5)])], {"x": 0}))
TEMPLATE = resources.files("ovseg.report").joinpath("index.html").read_text(encoding="utf-8")


def sheet(name: str, titles: Sequence[str], names: Sequence[str] = ("cat",), caption: str = "") -> Sheet:
    """A sheet of black images."""
    labels = np.zeros((20, 40), np.uint16)
    return make_sheet(name, np.zeros((20, 40, 3), np.uint8), dict.fromkeys(titles, labels), names, caption)


def texts(chart: Chart) -> list[str]:
    """All texts of a chart."""
    return [text for text in ElementTree.fromstring(chart.html).itertext() if text]


def test_a_chart_is_well_formed_and_its_bars_are_proportional_to_their_fractions() -> None:
    html = ElementTree.fromstring(bar_chart([("a <b>", [("x", 0.25), ("y", 0.5)])], {"x": 0, "y": 1}))
    widths = [rect.attrib["width"] for rect in html.findall("./div/svg/rect")]
    assert widths == ["50.00%", "100.00%"]
    assert {"a <b>", "x", "y", "25.0%"} <= set(html.itertext())


def test_a_chart_of_zeros_or_of_nothing_is_drawn() -> None:
    assert "0.0%" in bar_chart([("a", [("x", 0.0)])], {"x": 0})
    ElementTree.fromstring(bar_chart([], {}))


def test_every_color_has_a_value_on_light_and_on_dark_pages_and_print_is_light() -> None:
    for color in range(NUM_COLORS):
        assert TEMPLATE.count(f"--c{color}: #") == 2 and f".c{color} {{ fill: var(--c{color}); }}" in TEMPLATE
    assert "@media screen and (prefers-color-scheme: dark)" in TEMPLATE and "@media print" in TEMPLATE


def test_the_classes_that_gained_and_lost_most_are_shown() -> None:
    rows = [{"class": str(i), "a/ensemble": "0.5", "b/ensemble": f"{i / 100:.2f}"} for i in range(100)]
    rows.append({"class": "unknown", "a/ensemble": "", "b/ensemble": "0.9"})
    bars = class_bars(rows, "a", "b")
    names = [name.split()[0] for name, _ in bars]
    assert names[0] == "99" and names[-1] == "0" and "50" not in names and "unknown" not in names
    assert bars[0] == ("99 (+49)", [("a", 0.5), ("b", 0.99)])


def test_a_run_has_charts_of_all_its_models_with_one_color_each() -> None:
    metrics = {classifier: {"miou": 0.5} for classifier in ("clip", "proposals", "ensemble")} | {"mask_accuracy": 0.9}
    classes = [{"class": "cat", "base/ensemble": "0.1", "prompt/ensemble": "0.2"}]
    models = dict.fromkeys(("base", "finetune", "prompt"), metrics)
    benchmarks, accuracy, classifiers, changed = run_charts({"voc": models}, "voc", classes)
    assert {"voc", *models} <= set(texts(benchmarks)) and "90.0%" in texts(accuracy)
    assert {"proposal network", *models} <= set(texts(classifiers))
    assert {"cat (+10)", "base", "prompt"} <= set(texts(changed)) and "finetune" not in texts(changed)
    assert 'class="c0"' in changed.html and 'class="c2"' in changed.html and 'class="c1"' not in changed.html


def test_the_page_needs_no_other_file_and_escapes_its_content(tmp_path: Path) -> None:
    sections = [Section("First", "text", [["a", "b"], ["<script>", "1"]])]
    shown = Gallery("Images", "some <b>", [sheet('a"b', ["gt <i>"], ["<u>"], "wrong <s>")])
    write_page(tmp_path / "index.html", {"pairs <mined>": "1,000"}, [CHART], [shown], sections)
    page = (tmp_path / "index.html").read_text()
    assert not {tag for tag in ("<script>", "<i>", "<u>", "<s>", 'a"b') if tag in page}
    assert "&lt;script&gt;" in page and "pairs &lt;mined&gt;" in page and "gt &lt;i&gt;" in page
    assert "data:image/webp;base64," in page and 'src="http' not in page and 'href="http' not in page


def test_only_the_first_tables_are_expanded(tmp_path: Path) -> None:
    sections = [Section(title, "text", [["a"], ["b"]]) for title in ("First", "Second", "Third")]
    write_page(tmp_path / "index.html", {}, [CHART], [], sections, expanded=2)
    page = (tmp_path / "index.html").read_text()
    folded = page[page.index("<details>") :]
    assert "Third" in folded and "First" not in folded and "Second" not in folded


def test_every_link_at_the_top_leads_to_a_title(tmp_path: Path) -> None:
    gallery = Gallery("Worst images", "text", [sheet("one", ["gt"])])
    write_page(tmp_path / "index.html", {}, [CHART], [gallery, Gallery("Empty", "text", [])], [])
    page = (tmp_path / "index.html").read_text()
    links = re.findall(r'href="#([^"]+)"', page)
    assert links == re.findall(r'<h2 id="([^"]+)"', page) == ["chart", "worst-images", "tables"]


def test_numbers_are_aligned_and_long_texts_are_wrapped(tmp_path: Path) -> None:
    cells = [["name", "miou", "source"], ["cat", "12.5", "a long text about the source of it"]]
    write_page(tmp_path / "index.html", {}, [CHART], [], [Section("First", "text", cells)])
    page = (tmp_path / "index.html").read_text()
    assert '<td class="word">cat</td><td class="number">12.5</td><td class="text">a long' in page
    assert '<th class="word">name</th><th class="number">miou</th><th class="text">source</th>' in page


def test_a_sheet_has_a_panel_for_the_image_and_for_each_map() -> None:
    widths = [draw_sheet(sheet("one", "abc"[:number])).width for number in range(1, 4)]
    assert widths[0] < widths[1] and widths[2] - widths[1] == widths[1] - widths[0]
    assert list(sheet("one", "ab").panels) == ["image", "a", "b"]
