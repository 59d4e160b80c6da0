"""The page and the overlays: self-contained, escaped, and the colours mean the same everywhere."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from ovseg.report.charts import bars
from ovseg.report.overlays import sheet
from ovseg.report.page import write_page
from ovseg.segmentation.overlay import GREY, class_colour, overlay, paint


def test_a_chart_is_well_formed_and_its_bars_are_as_long_as_their_shares() -> None:
    svg = ElementTree.fromstring(bars([("a <b>", [("x", 0.25), ("y", 0.5)])]))
    widths = [float(rect.attrib["width"]) for rect in svg.findall("rect")][:2]
    assert widths[1] == 2 * widths[0]
    assert "a <b>" in [text.text for text in svg.findall("text")]


def test_the_page_needs_no_other_file_and_escapes_what_it_is_given(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "one.png")
    write_page(
        tmp_path / "index.html",
        "lead",
        {"pairs <mined>": "1,000"},
        [("Chart", "sentence", bars([("a", [("x", 0.5)])]))],
        [tmp_path / "one.png"],
        [("First", "s", [["a", "b"], ["<script>", "1"]]), ("Second", "s", [["a"], ["b"]])],
    )
    page = (tmp_path / "index.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page and "pairs &lt;mined&gt;" in page
    assert "data:image/jpeg;base64," in page and 'src="http' not in page and "href=" not in page
    assert page.count("<details>") == 1


def test_only_the_first_tables_are_unfolded(tmp_path: Path) -> None:
    charts = [("Chart", "sentence", bars([("a", [("x", 0.5)])]))]
    some = [(title, "s", [["a"], ["b"]]) for title in ("First", "Second", "Third")]
    write_page(tmp_path / "index.html", "lead", {}, charts, [], some, unfolded=2)
    page = (tmp_path / "index.html").read_text()
    assert "<h3>First</h3>" in page and "<h3>Second</h3>" in page and "<summary>Third</summary>" in page
    assert page.count("<details>") == 1


def test_paint_mixes_each_classes_colour_and_greys_what_is_no_class() -> None:
    pixels = np.full((4, 6, 3), 100, np.uint8)
    labels = np.zeros((4, 6), np.uint16)
    labels[:, 3:] = 255
    painted = paint(pixels, labels, 2)
    for column, colour in ((0, class_colour(0)), (5, GREY)):
        expected = np.round(np.array([100] * 3) * 0.45 + np.array(colour) * 0.55)
        assert np.abs(painted[1, column] - expected).max() <= 1
    assert (painted[:, 3] == 255).all()


def test_colours_of_the_first_hundred_classes_are_all_different() -> None:
    assert len({class_colour(number) for number in range(100)}) == 100


def test_an_overlay_names_its_classes_beside_the_image_and_a_tiny_image_is_enlarged() -> None:
    pixels = np.zeros((1, 3, 3), np.uint8)
    shown = overlay(pixels, np.array([[0, 0, 1]], np.uint16), ["cat", "sofa"])
    assert shown.width > 24 and shown.height >= 8
    wide = overlay(np.zeros((1, 10_000, 3), np.uint8), np.zeros((1, 10_000), np.uint16), ["cat"])
    assert wide.width > 10_000


def test_a_sheet_has_a_panel_for_the_image_and_each_map() -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    labels = np.zeros((20, 40), np.uint16)
    one, two = sheet(pixels, {"truth": labels}, ["cat"]), sheet(pixels, {"truth": labels, "base": labels}, ["cat"])
    assert two.width - one.width == 248
