"""reports/index.html: the whole run on one self-contained page, opened from the disk."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image

from ovseg.report.charts import bars

JPEG_QUALITY = 82
CLASSIFIERS = ("clip", "proposals", "ensemble")


def write_page(
    path: Path,
    lead: str,
    facts: Mapping[str, str],
    charts: Sequence[tuple[str, str, str]],
    overlays: Sequence[Path],
    tables: Sequence[tuple[str, str, list[list[str]]]],
    unfolded: int = 1,
) -> None:
    """Write the page.

    Args:
        path: the HTML file.
        lead: a sentence at the top.
        facts: value of each name, shown large.
        charts: title, a sentence, and an `<svg>` element.
        overlays: images.
        tables: title, a sentence, and cells with their header.
        unfolded: how many of the tables, the first ones, are not folded.
    """
    first, *others = charts
    body = [_chart(*first), _gallery(overlays), *(_chart(*chart) for chart in others), "<h2>Tables</h2>"]
    body += [_table(*table, folded=i >= unfolded) for i, table in enumerate(tables)]
    told = "".join(f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for name, value in facts.items())
    page = Template(resources.files(__package__).joinpath("index.html").read_text(encoding="utf-8"))
    path.write_text(page.substitute(lead=lead, facts=told, body="\n".join(body)), encoding="utf-8")


def charts(
    benchmarks: Mapping[str, Any], shown: str, classes: Sequence[Mapping[str, str]], first: str, last: str
) -> list[tuple[str, str, str]]:
    """The charts of the page, as `write_page` takes them.

    Args:
        benchmarks: see `paper.figures`.
        shown: the one that is shown in detail.
        classes: rows of its classes.tsv.
        first, last: the models that are compared.
    """
    models = benchmarks[shown]
    by_model = [
        (name, [(model, float(figures["ensemble"]["miou"])) for model, figures in some.items()])
        for name, some in benchmarks.items()
    ]
    by_classifier = [
        (model, [(c, float(figures[c]["miou"])) for c in CLASSIFIERS]) for model, figures in models.items()
    ]
    ways = f"{first}/ensemble", f"{last}/ensemble"
    return [
        ("Benchmarks", "mIoU of the ensemble.", bars(by_model)),
        (f"Whose word counts: {shown}", "mIoU by CLIP, by the proposal network, and by both.", bars(by_classifier)),
        (f"Classes: {shown}", "IoU of the classes that gained and lost most.", class_chart(classes, *ways)),
    ]


def class_chart(rows: Sequence[Mapping[str, str]], first: str, last: str, number: int = 12) -> str:
    """IoU of the classes that gained and lost most between two ways (columns of classes.tsv)."""
    known = [(row["class"], float(row[first]), float(row[last])) for row in rows if row[first] and row[last]]
    order = sorted(known, key=lambda row: row[1] - row[2])
    chosen = order if len(order) <= 2 * number else [*order[:number], *order[-number:]]
    names = (first.replace("/", ", "), last.replace("/", ", "))
    return bars([(name, [(names[0], before), (names[1], after)]) for name, before, after in chosen])


def _chart(title: str, sentence: str, svg: str) -> str:
    return f'<h2>{escape(title)}</h2><p>{escape(sentence)}</p><div class="chart">{svg}</div>'


def _gallery(overlays: Sequence[Path]) -> str:
    if not overlays:
        return ""
    images = "".join(
        f'<figure><img alt="{escape(path.stem)}" src="data:image/jpeg;base64,{_embedded(path)}"></figure>'
        for path in overlays
    )
    return (
        "<h2>Images</h2><p>Spread evenly over the benchmark, whatever came out. Grey: nothing is scored there.</p>"
        f"{images}"
    )


def _embedded(path: Path) -> str:
    stream = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").save(stream, "JPEG", quality=JPEG_QUALITY)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def _table(title: str, sentence: str, cells: list[list[str]], folded: bool) -> str:
    header, *rows = cells
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    said = f"<p>{escape(sentence)}</p>{table}"
    return (
        f"<details><summary>{escape(title)}</summary>{said}</details>" if folded else f"<h3>{escape(title)}</h3>{said}"
    )
