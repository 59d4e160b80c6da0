"""Bar charts as SVG, without a plotting library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

ROW_HEIGHT, BAR_HEIGHT, LABEL_WIDTH, VALUE_WIDTH = 22, 14, 170, 60  # in pixels
COLORS = ("#9aa5b1", "#5b8def", "#2f9e6e", "#d9822b", "#a05fbf")
CLASSIFIERS = {"clip": "CLIP", "proposals": "proposal network", "ensemble": "ensemble"}
NUM_CLASSES = 12

Bars = Sequence[tuple[str, Sequence[tuple[str, float]]]]
"""Groups of bars: the name of each group, and the name and fraction of each of its bars."""


class Chart(NamedTuple):
    """One chart of the page: its title, a text that explains it, and an `<svg>` element."""

    title: str
    text: str
    svg: str


def run_charts(
    benchmarks: Mapping[str, Any], shown: str, classes: Sequence[Mapping[str, str]], first: str, last: str
) -> list[Chart]:
    """Return the charts of a run: all benchmarks, then the classifiers and the classes of one of them.

    Args:
        benchmarks: the metrics of a run, see `run_metrics.read_benchmark_metrics`.
        shown: the benchmark that is shown in detail.
        classes: the rows of its classes.tsv.
        first: the model that is compared with.
        last: the model that is the result.
    """
    models = {
        name: [(model, float(metrics["ensemble"]["miou"])) for model, metrics in by_model.items()]
        for name, by_model in benchmarks.items()
    }
    classifiers = {
        model: [(label, float(metrics[classifier]["miou"])) for classifier, label in CLASSIFIERS.items()]
        for model, metrics in benchmarks[shown].items()
    }
    compared = class_bars(classes, f"{first}/ensemble", f"{last}/ensemble")
    return [
        Chart("Benchmarks", "mIoU of the ensemble.", bar_chart(list(models.items()))),
        Chart(
            f"Classifiers on {shown}",
            "mIoU of CLIP alone, of the proposal network alone, and of their ensemble.",
            bar_chart(list(classifiers.items())),
        ),
        Chart(f"Classes of {shown}", "IoU of the classes that gained and lost most.", bar_chart(compared)),
    ]


def class_bars(rows: Sequence[Mapping[str, str]], first: str, last: str) -> Bars:
    """Return the IoU of the classes that gained and lost most between two columns of a classes.tsv."""
    ious = [(row["class"], float(row[first]), float(row[last])) for row in rows if row[first] and row[last]]
    order = sorted(ious, key=lambda row: row[1] - row[2])
    chosen = order if len(order) <= 2 * NUM_CLASSES else [*order[:NUM_CLASSES], *order[-NUM_CLASSES:]]
    labels = first.replace("/", ", "), last.replace("/", ", ")
    return [(name, [(labels[0], before), (labels[1], after)]) for name, before, after in chosen]


def bar_chart(groups: Bars, width: int = 860, maximum: float = 1.0) -> str:
    """Draw horizontal bars in groups.

    Args:
        groups: see `Bars`.
        width: the width of the chart in pixels.
        maximum: the fraction that fills the width.

    Returns:
        an `<svg>` element.
    """
    series = list(dict.fromkeys(name for _, bars in groups for name, _ in bars))
    parts, y = [], 0
    for group, bars in groups:
        middle = y + ROW_HEIGHT * len(bars) / 2 + 4
        parts.append(f'<text x="{LABEL_WIDTH - 8}" y="{middle}" text-anchor="end">{escape(group)}</text>')
        for name, fraction in bars:
            length = max(1.0, (width - LABEL_WIDTH - VALUE_WIDTH) * min(fraction / maximum, 1.0))
            color = COLORS[series.index(name) % len(COLORS)]
            parts.append(
                f'<rect x="{LABEL_WIDTH}" y="{y + 4}" width="{length:.1f}" height="{BAR_HEIGHT}" rx="2" fill="{color}">'
                f"<title>{escape(f'{group}, {name}: {fraction:.1%}')}</title></rect>"
                f'<text class="value" x="{LABEL_WIDTH + length + 6:.1f}" y="{y + 15}">{fraction:.1%}</text>'
            )
            y += ROW_HEIGHT
        y += ROW_HEIGHT // 2
    height = y + ROW_HEIGHT
    content = "".join(parts) + _legend(series, y)
    return f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">{content}</svg>'


def _legend(series: Sequence[str], y: int) -> str:
    parts, x = [], LABEL_WIDTH
    for i, name in enumerate(series):
        parts.append(
            f'<rect x="{x}" y="{y + 2}" width="12" height="12" rx="2" fill="{COLORS[i % len(COLORS)]}"/>'
            f'<text x="{x + 17}" y="{y + 13}">{escape(name)}</text>'
        )
        x += 34 + 8 * len(name)
    return "".join(parts)
