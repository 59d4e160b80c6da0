"""Things of the kitchen.

Each function draws one upright thing that fills most of the unit square; its docstring lists what varies.
"""

from __future__ import annotations

from data.demo.world.pen import Pen

STEAM = (225, 230, 235)
WINE = (140, 20, 55)
PAPER = (250, 245, 225)


def cup(pen: Pen) -> None:
    """How much it tapers; what is inside; steam or a saucer or a band."""
    top, foot, handle = pen.vary(0.24, 0.38), pen.vary(0.08, 0.18), pen.vary(0.13, 0.2)
    saucer = pen.chance(0.4)
    base = 0.88 if saucer else 0.94
    pen.arc(0.72, (top + base) / 2 - 0.04, 0.2, handle, -90, 90, 0.08, pen.main)
    pen.polygon([(0.06, top), (0.76, top), (0.76 - foot, base), (0.06 + foot, base)], pen.main)
    pen.ellipse(0.41, top, 0.35, 0.09, pen.light)
    pen.ellipse(0.41, top + 0.01, 0.29, 0.06, (90, 52, 28) if pen.chance(0.6) else pen.dark)
    if saucer:
        pen.ellipse(0.41, 0.9, 0.37, 0.06, pen.accent)
    if pen.chance(0.6):
        for x in (0.3, 0.5):
            pen.arc(x, top - 0.12, 0.025, 0.03, 90, -90, 0.035, STEAM)
            pen.arc(x, top - 0.18, 0.025, 0.03, 90, 270, 0.035, STEAM)


def bottle(pen: Pen) -> None:
    """How wide and how high the shoulder is; the label; the stopper."""
    wide, neck, shoulder = pen.vary(0.17, 0.25), pen.vary(0.065, 0.085), pen.vary(0.36, 0.5)
    pen.rectangle(0.5 - wide, shoulder, 0.5 + wide, 0.96, pen.main, 0.05)
    pen.pie(0.5, shoulder + 0.03, wide, 0.17, 180, 360, pen.main)
    pen.rectangle(0.5 - neck, 0.1, 0.5 + neck, shoulder, pen.main)
    pen.rectangle(0.49 - neck, 0.04, 0.51 + neck, pen.vary(0.11, 0.15), pen.accent, 0.02)
    label = pen.vary(0.56, 0.62)
    pen.rectangle(0.5 - wide, label, 0.5 + wide, label + pen.vary(0.15, 0.24), PAPER)
    pen.line([(0.58 - wide, label + 0.075), (0.42 + wide, label + 0.075)], 0.04, pen.accent)
    pen.line([(0.5 - wide / 1.6, shoulder + 0.02), (0.5 - wide / 1.6, label - 0.05)], 0.035, pen.light)


def wine_glass(pen: Pen) -> None:
    """How wide and deep the bowl is; how full; the length of the stem."""
    wide, deep = pen.vary(0.25, 0.34), pen.vary(0.46, 0.58)
    pen.line([(0.5, deep), (0.5, 0.9)], 0.075, pen.main)
    pen.pie(0.5, 0.96, pen.vary(0.22, 0.3), 0.1, 180, 360, pen.main)
    sides = [(0.5 - 0.85 * wide, 0.06), (0.5 + 0.85 * wide, 0.06), (0.5 + wide, 0.3), (0.5 - wide, 0.3)]
    pen.polygon(sides, pen.main)
    pen.pie(0.5, 0.29, wide, deep - 0.27, 0, 180, pen.main)
    inner, level = wide - 0.06, pen.vary(0.22, 0.3)
    pen.polygon(
        [(0.5 - 0.83 * inner, 0.06), (0.5 + 0.83 * inner, 0.06), (0.5 + inner, level), (0.5 - inner, level)], STEAM
    )
    pen.ellipse(0.5, level, inner, 0.035, WINE)
    pen.line([(0.5 - wide * 0.6, 0.35), (0.5 - wide * 0.35, deep - 0.12)], 0.035, pen.light)


def teapot(pen: Pen) -> None:
    """How round the belly is; how high the spout reaches; the knob; a band."""
    rx, ry = pen.vary(0.27, 0.31), pen.vary(0.24, 0.3)
    y, lip = 0.93 - ry, pen.vary(0.34, 0.44)
    pen.arc(0.5 + rx - 0.02, y - 0.03, 0.17, ry * 0.65, -100, 100, 0.075, pen.main)
    pen.polygon(
        [(0.32, y - 0.06), (0.32, y + 0.18), (0.15, y + 0.08), (0.04, lip), (0.15, lip - 0.02), (0.23, y - 0.05)],
        pen.main,
    )
    pen.rectangle(0.36, 0.88, 0.64, 0.96, pen.dark, 0.03)
    pen.ellipse(0.5, y, rx, ry, pen.main)
    pen.pie(0.5, y - ry * 0.7, rx * 0.72, pen.vary(0.13, 0.18), 180, 360, pen.accent)
    pen.ellipse(0.5, y - ry * 0.7 - 0.19, 0.065, 0.065, pen.dark)
    if pen.chance(0.6):
        pen.line([(0.5 - rx * 0.85, y + 0.06), (0.5 + rx * 0.85, y + 0.06)], 0.06, pen.accent)
    pen.arc(0.5, y, rx * 0.75, ry * 0.7, 190, 230, 0.04, pen.light)


def fork(pen: Pen) -> None:
    """Three or four prongs, long or short; the handle widens or not."""
    prongs, root, half = int(pen.rng.integers(3, 5)), pen.vary(0.3, 0.4), pen.vary(0.2, 0.25)
    width = 0.1 if prongs == 3 else 0.08
    for i in range(prongs):
        x = 0.5 - half + width / 2 + i * (2 * half - width) / (prongs - 1)
        pen.rectangle(x - width / 2, 0.04, x + width / 2, root + 0.05, pen.main, width / 2)
    pen.rectangle(0.5 - half, root, 0.5 + half, root + 0.1, pen.main)
    pen.pie(0.5, root + 0.08, half, 0.17, 0, 180, pen.main)
    end = pen.vary(0.07, 0.11)
    pen.polygon([(0.45, root + 0.2), (0.55, root + 0.2), (0.5 + end, 0.9), (0.5 - end, 0.9)], pen.main)
    pen.ellipse(0.5, 0.9, end, 0.06, pen.main)
    pen.line([(0.5, 0.72), (0.5, 0.88)], 0.05, pen.accent if pen.chance(0.5) else pen.light)
