"""reports/index.html: the whole run on one self-contained page that a browser opens from the disk."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import NamedTuple

from PIL import Image

from ovseg.report.charts import Chart, swatch
from ovseg.report.metric_tables import Section
from ovseg.report.overlays import Sheet

WEBP_QUALITY = 65
LONG_CELL = 24  # characters; columns with longer cells are wrapped
LEAD = (
    "One run of the pipeline: pairs mined from captions, CLIP adapted to them, and the effect on segmentation. The mined pairs "
    'are in <a href="pairs.html">pairs.html</a>.'
)


class Gallery(NamedTuple):
    """Some sheets of the page: their title and a text that explains them."""

    title: str
    text: str
    sheets: Sequence[Sheet]


def write_page(
    path: Path,
    headline: Mapping[str, str],
    charts: Sequence[Chart],
    galleries: Sequence[Gallery],
    sections: Sequence[Section],
    expanded: int = 1,
) -> None:
    """Write the page.

    Args:
        path: the HTML file.
        headline: the values that are shown large at the top, by their labels.
        charts: the charts; the galleries are shown after the first.
        galleries: the images; those without a sheet are left out.
        sections: the tables.
        expanded: the number of tables that are open when the page loads, the first ones.
    """
    first, *others = charts
    shown = [gallery for gallery in galleries if gallery.sheets]
    parts = [_chart(first), *map(_gallery, shown), *map(_chart, others), _heading("Tables")]
    parts += [_section(section, is_open=i < expanded) for i, section in enumerate(sections)]
    titles = [first.title, *(gallery.title for gallery in shown), *(chart.title for chart in others), "Tables"]
    links = "".join(f'<a href="#{_anchor(title)}">{escape(title)}</a>' for title in titles)
    values = "".join(
        f"<div><b>{escape(value)}</b><span>{escape(label)}</span></div>" for label, value in headline.items()
    )
    template = Template(resources.files(__package__).joinpath("index.html").read_text(encoding="utf-8"))
    html = template.substitute(lead=LEAD, links=links, headline=values, body="\n".join(parts))
    path.write_text(html, encoding="utf-8")


def _anchor(title: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in title.lower())


def _heading(title: str) -> str:
    return f'<h2 id="{_anchor(title)}">{escape(title)}</h2>'


def _chart(chart: Chart) -> str:
    return f'{_heading(chart.title)}<p>{escape(chart.text)}</p><div class="card">{chart.html}</div>'


def _gallery(gallery: Gallery) -> str:
    sheets = "".join(map(_sheet, gallery.sheets))
    return f"{_heading(gallery.title)}<p>{escape(gallery.text)}</p>{sheets}"


def _sheet(sheet: Sheet) -> str:
    """The panels as images of their own and the legend as text, which a narrow page wraps and a dark one colors."""
    panels = "".join(
        f'<figure><figcaption>{escape(title)}</figcaption><img alt="{escape(f"{sheet.name}, {title}")}" '
        f'width="{panel.width}" height="{panel.height}" src="data:image/webp;base64,{_base64_webp(panel)}"></figure>'
        for title, panel in sheet.panels.items()
    )
    legend = "".join(f"<li>{swatch(f'#{bytes(color).hex()}')}{escape(name)}</li>" for color, name in sheet.legend)
    caption = f"<p>{escape(sheet.caption)}</p>" if sheet.caption else ""
    grid = f'<div class="panels" style="--number: {len(sheet.panels)}">{panels}</div>'
    content = f'{grid}{caption}<ul class="legend">{legend}</ul>'
    return f'<article class="card sheet" data-name="{escape(sheet.name)}">{content}</article>'


def _base64_webp(panel: Image.Image) -> str:
    stream = io.BytesIO()
    panel.save(stream, "WEBP", quality=WEBP_QUALITY, method=6)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def _section(section: Section, is_open: bool) -> str:
    header, *rows = section.cells
    kinds = [_kind([row[i] for row in rows]) for i in range(len(header))]
    head, *body = ["<tr>" + "".join(map(_cell, row, kinds)) + "</tr>" for row in section.cells]
    head = head.replace("<td", "<th").replace("</td>", "</th>")
    table = f'<div class="scroll" tabindex="0"><table><thead>{head}</thead><tbody>{"".join(body)}</tbody></table></div>'
    content = f"<p>{escape(section.text)}</p>{table}"
    title = escape(section.title)
    if is_open:
        return f"<h3>{title}</h3>{content}"
    return f"<details><summary>{title}</summary>{content}</details>"


def _kind(cells: Sequence[str]) -> str:
    """The class of a column in index.html: numbers, words, or texts that are wrapped."""
    if any(len(cell) > LONG_CELL for cell in cells):
        return "text"
    return "word" if any(cell[:1].isalpha() for cell in cells) else "number"


def _cell(text: str, kind: str) -> str:
    return f'<td class="{kind}">{escape(text)}</td>'
