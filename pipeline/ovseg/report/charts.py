"""Charts as SVG, without a library: bars with their values, which is all that the report needs."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

ROW, BAR, LABEL, VALUE = 22, 14, 170, 60  # pixels
COLOURS = ("#9aa5b1", "#5b8def", "#2f9e6e", "#d9822b", "#a05fbf")


def bars(rows: Sequence[tuple[str, Sequence[tuple[str, float]]]], width: int = 860, most: float = 1.0) -> str:
    """Horizontal bars in groups.

    Args:
        rows: name of each group, and the name and share of its bars.
        width: of the chart in pixels.
        most: the share that fills the width.

    Returns:
        an `<svg>` element.
    """
    series = list(dict.fromkeys(name for _, some in rows for name, _ in some))
    parts, y = [], 0
    for group, some in rows:
        parts.append(
            f'<text x="{LABEL - 8}" y="{y + ROW * len(some) / 2 + 4}" text-anchor="end">{escape(group)}</text>'
        )
        for name, share in some:
            length = max(1.0, (width - LABEL - VALUE) * min(share / most, 1.0))
            colour = COLOURS[series.index(name) % len(COLOURS)]
            parts.append(
                f'<rect x="{LABEL}" y="{y + 4}" width="{length:.1f}" height="{BAR}" rx="2" fill="{colour}"><title>'
                f"{escape(f'{group}, {name}: {share:.1%}')}</title></rect>"
                f'<text class="value" x="{LABEL + length + 6:.1f}" y="{y + 15}">{share:.1%}</text>'
            )
            y += ROW
        y += ROW // 2
    key, x = [], LABEL
    for i, name in enumerate(series):
        key.append(
            f'<rect x="{x}" y="{y + 2}" width="12" height="12" rx="2" fill="{COLOURS[i % len(COLOURS)]}"/>'
            f'<text x="{x + 17}" y="{y + 13}">{escape(name)}</text>'
        )
        x += 34 + 8 * len(name)
    height = y + ROW
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">{"".join(parts + key)}</svg>'
    )
