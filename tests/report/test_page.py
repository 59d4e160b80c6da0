"""The page, its charts and the overlay sheets: self-contained, escaped, and with a panel for each map."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from ovseg.report.charts import Chart, bar_chart, class_bars, run_charts
from ovseg.report.metric_tables import Section
from ovseg.report.overlays import draw_sheet
from ovseg.report.page import write_page

CHART = Chart("Chart", "text", bar_chart([("a", [("x", 0.5)])]))


def test_a_chart_is_well_formed_and_its_bars_are_proportional_to_their_fractions() -> None:
    svg = ElementTree.fromstring(bar_chart([("a <b>", [("x", 0.25), ("y", 0.5)])]))
    widths = [float(rect.attrib["width"]) for rect in svg.findall("rect")][:2]
    assert widths[1] == 2 * widths[0]
    assert "a <b>" in [text.text for text in svg.findall("text")]


def test_the_classes_that_gained_and_lost_most_are_shown() -> None:
    rows = [{"class": str(i), "a/ensemble": "0.5", "b/ensemble": f"{i / 100:.2f}"} for i in range(100)]
    rows.append({"class": "unknown", "a/ensemble": "", "b/ensemble": "0.9"})
    names = [name for name, _ in class_bars(rows, "a/ensemble", "b/ensemble")]
    assert names[0] == "99" and names[-1] == "0" and "50" not in names and "unknown" not in names


def test_a_run_has_charts_of_its_benchmarks_classifiers_and_classes() -> None:
    metrics = {classifier: {"miou": 0.5} for classifier in ("clip", "proposals", "ensemble")}
    classes = [{"class": "cat", "base/ensemble": "0.1", "prompt/ensemble": "0.2"}]
    charts = run_charts({"voc": {"base": metrics, "prompt": metrics}}, "voc", classes, "base", "prompt")
    texts = [{text.text for text in ElementTree.fromstring(chart.svg).iter("text")} for chart in charts]
    assert "voc" in texts[0] and "proposal network" in texts[1] and "cat" in texts[2]


def test_the_page_needs_no_other_file_and_escapes_its_content(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "one.png")
    sections = [Section("First", "text", [["a", "b"], ["<script>", "1"]])]
    write_page(tmp_path / "index.html", {"pairs <mined>": "1,000"}, [CHART], [tmp_path / "one.png"], sections)
    page = (tmp_path / "index.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page and "pairs &lt;mined&gt;" in page
    assert "data:image/jpeg;base64," in page and 'src="http' not in page and 'href="http' not in page


def test_only_the_first_tables_are_expanded(tmp_path: Path) -> None:
    sections = [Section(title, "text", [["a"], ["b"]]) for title in ("First", "Second", "Third")]
    write_page(tmp_path / "index.html", {}, [CHART], [], sections, expanded=2)
    page = (tmp_path / "index.html").read_text()
    folded = page[page.index("<details>") :]
    assert "Third" in folded and "First" not in folded and "Second" not in folded


def test_a_sheet_has_a_panel_for_the_image_and_for_each_map() -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    labels = np.zeros((20, 40), np.uint16)
    widths = [draw_sheet(pixels, dict.fromkeys("abc"[:number], labels), ["cat"]).width for number in range(1, 4)]
    assert widths[0] < widths[1] and widths[2] - widths[1] == widths[1] - widths[0]
