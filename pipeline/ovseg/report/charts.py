"""Bar charts as HTML with SVG bars, without a plotting library: they fit any width, and are printed with their colors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

ROW_HEIGHT, BAR_HEIGHT, GAP = 20, 14, 8  # in pixels
MIN_PERCENT = 0.3  # of the width, of the bar of a zero
NUM_COLORS = 6  # .c0 to .c5 in index.html
CLASSIFIERS = {"clip": "CLIP", "proposals": "proposal network", "ensemble": "ensemble"}
NUM_CLASSES = 8

Bars = Sequence[tuple[str, Sequence[tuple[str, float]]]]
"""Groups of bars: the name of each group, and the name and fraction of each of its bars."""


class Chart(NamedTuple):
    """One chart of the page: its title, a text that explains it, and an HTML element."""

    title: str
    text: str
    html: str


def run_charts(benchmarks: Mapping[str, Any], shown: str, classes: Sequence[Mapping[str, str]]) -> list[Chart]:
    """Return the charts of a run: all benchmarks, then the mask accuracy, the classifiers and the classes of one of them.

    Args:
        benchmarks: the metrics of a run, see `run_metrics.read_benchmark_metrics`; of the models, the first is compared with,
            the last is the result.
        shown: the benchmark that is shown in detail.
        classes: the rows of its classes.tsv.
    """
    models = list(benchmarks[shown])
    first, last = models[0], models[-1]
    colors = {model: i % NUM_COLORS for i, model in enumerate(models)}
    mious = {
        name: [(model, float(metrics["ensemble"]["miou"])) for model, metrics in by_model.items()]
        for name, by_model in benchmarks.items()
    }
    accuracies = {
        name: [(model, float(metrics["mask_accuracy"])) for model, metrics in by_model.items()]
        for name, by_model in benchmarks.items()
    }
    classifiers = {
        model: [(label, float(metrics[classifier]["miou"])) for classifier, label in CLASSIFIERS.items()]
        for model, metrics in benchmarks[shown].items()
    }
    of_classifiers = {label: 3 + i for i, label in enumerate(CLASSIFIERS.values())}
    ends = {model: colors[model] for model in (first, last)}
    return [
        Chart(
            "Benchmarks",
            f"mIoU of the ensemble of proposal network and CLIP. {first} is the CLIP before adaptation, {last} the result.",
            bar_chart(list(mious.items()), colors),
        ),
        Chart(
            "Mask accuracy",
            "The fraction of ground-truth masks that CLIP gives the right class, without any influence of the proposals.",
            bar_chart(list(accuracies.items()), colors),
        ),
        Chart(
            f"Classifiers on benchmark {shown}",
            "mIoU of CLIP alone, of the proposal network alone, and of their ensemble.",
            bar_chart(list(classifiers.items()), of_classifiers),
        ),
        Chart(
            f"Classes of benchmark {shown} that changed most",
            f"IoU of the classes that gained and lost most from {first} to {last}; in brackets the gain in percentage points.",
            bar_chart(class_bars(classes, first, last), ends),
        ),
    ]


def class_bars(rows: Sequence[Mapping[str, str]], first: str, last: str) -> Bars:
    """Return the IoU of the classes whose ensemble gained and lost most between two models, most gained first.

    Args:
        rows: the rows of a classes.tsv.
        first, last: the names of the models.
    """
    pairs = [(row["class"], row[f"{first}/ensemble"], row[f"{last}/ensemble"]) for row in rows]
    ious = [(name, float(before), float(after)) for name, before, after in pairs if before and after]
    order = sorted(ious, key=lambda row: row[1] - row[2])
    chosen = order if len(order) <= 2 * NUM_CLASSES else [*order[:NUM_CLASSES], *order[-NUM_CLASSES:]]
    return [
        (f"{name} ({100 * (after - before):+.0f})", list({first: before, last: after}.items()))
        for name, before, after in chosen
    ]


def bar_chart(groups: Bars, colors: Mapping[str, int]) -> str:
    """Draw horizontal bars in groups; the largest fraction fills the width.

    Args:
        groups: see `Bars`.
        colors: the number of the color of each bar's name, in [0, `NUM_COLORS`); one name has one color in all charts.

    Returns:
        an HTML element that is well-formed XML.
    """
    maximum = max((fraction for _, bars in groups for _, fraction in bars), default=1.0) or 1.0
    used = [name for name in colors if any(name == bar for _, bars in groups for bar, _ in bars)]
    legend = "".join(f"<li>{swatch(f'c{colors[name]}')}{escape(name)}</li>" for name in used)
    rows = "".join(
        f'<div class="group"><span>{escape(group)}</span>{_bars(group, bars, colors, maximum)}</div>'
        for group, bars in groups
    )
    return f'<div class="bars"><ul class="legend">{legend}</ul>{rows}</div>'


def swatch(color: str) -> str:
    """Return a small square as SVG. `color` is a class of index.html, or a color as "#RRGGBB"."""
    paint = f'fill="{color}"' if color.startswith("#") else f'class="{color}"'
    return f'<svg class="swatch" width="12" height="12" aria-hidden="true"><rect {paint} width="12" height="12" rx="2"/></svg>'


def _bars(group: str, bars: Sequence[tuple[str, float]], colors: Mapping[str, int], maximum: float) -> str:
    parts = []
    for i, (name, fraction) in enumerate(bars):
        y, length = i * ROW_HEIGHT, max(100 * fraction / maximum, MIN_PERCENT)
        parts.append(
            f'<rect class="c{colors[name]}" y="{y + 3}" width="{length:.2f}%" height="{BAR_HEIGHT}" rx="2">'
            f"<title>{escape(f'{group}, {name}: {fraction:.1%}')}</title></rect>"
            f'<text x="{length:.2f}%" dx="6" y="{y + 14}">{fraction:.1%}</text>'
        )
    return f'<svg height="{ROW_HEIGHT * len(bars) + GAP}">{"".join(parts)}</svg>'
