"""reports/index.html: the whole run on one self-contained page that a browser opens from the disk."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

from PIL import Image

from ovseg.report.charts import Chart
from ovseg.report.metric_tables import Section

JPEG_QUALITY = 82
LEAD = (
    "One run of the pipeline: pairs mined from captions, CLIP adapted to them, and the effect on segmentation. The mined pairs "
    'are in <a href="pairs.html">pairs.html</a>.'
)


def write_page(
    path: Path,
    headline: Mapping[str, str],
    charts: Sequence[Chart],
    overlays: Sequence[Path],
    sections: Sequence[Section],
    expanded: int = 1,
) -> None:
    """Write the page.

    Args:
        path: the HTML file.
        headline: the values that are shown large at the top, by their labels.
        charts: the charts; the images are shown after the first.
        overlays: image files that are embedded.
        sections: the tables.
        expanded: the number of tables that are open when the page loads, the first ones.
    """
    first, *others = charts
    body = [_chart(first), _gallery(overlays), *(_chart(chart) for chart in others), "<h2>Tables</h2>"]
    body += [_section(section, is_open=i < expanded) for i, section in enumerate(sections)]
    values = "".join(
        f"<div><b>{escape(value)}</b><span>{escape(label)}</span></div>" for label, value in headline.items()
    )
    template = Template(resources.files(__package__).joinpath("index.html").read_text(encoding="utf-8"))
    html = template.substitute(lead=LEAD, headline=values, body="\n".join(body))
    path.write_text(html, encoding="utf-8")


def _chart(chart: Chart) -> str:
    return f'<h2>{escape(chart.title)}</h2><p>{escape(chart.text)}</p><div class="chart">{chart.svg}</div>'


def _gallery(overlays: Sequence[Path]) -> str:
    if not overlays:
        return ""
    images = "".join(
        f'<figure><img alt="{escape(path.stem)}" src="data:image/jpeg;base64,{_base64_jpeg(path)}"></figure>'
        for path in overlays
    )
    return (
        "<h2>Images</h2><p>Images at equal distances in the benchmark, not chosen by their results. Gray pixels have no "
        f"label.</p>{images}"
    )


def _base64_jpeg(path: Path) -> str:
    stream = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").save(stream, "JPEG", quality=JPEG_QUALITY)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def _section(section: Section, is_open: bool) -> str:
    header, *rows = section.cells
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    content = f"<p>{escape(section.text)}</p>{table}"
    title = escape(section.title)
    if is_open:
        return f"<h3>{title}</h3>{content}"
    return f"<details><summary>{title}</summary>{content}</details>"
