"""Things to eat.

Each function draws one upright thing that fills most of the unit square; its docstring lists what varies.
"""

from __future__ import annotations

import math

from data.demo.world.pen import Pen

STALK, GREENS, CRUST, WAFER = (95, 62, 35), (60, 165, 65), (205, 145, 75), (222, 165, 95)
BLACK, WHITE, FLAME = (15, 15, 18), (250, 248, 242), (255, 190, 40)


def apple(pen: Pen) -> None:
    """Two lobes with a stalk and a leaf; breadth and taper vary, a bite is optional."""
    lobe, taper = pen.vary(0.25, 0.29), pen.vary(3, 14)
    for side in (-1, 1):
        pen.tilted(0.5 + side * 0.16, 0.58, lobe, 0.36, side * taper, pen.main)
    pen.ellipse(0.5, 0.28, 0.09, 0.045, pen.dark)
    if pen.chance(0.25):
        pen.erase_ellipse(0.93, 0.52, 0.15, 0.15)
    pen.line([(0.5, 0.29), (0.5, 0.15), (0.46, 0.06)], 0.045, STALK)
    pen.tilted(0.65, 0.13, 0.15, 0.065, pen.vary(-30, -5), GREENS)
    pen.tilted(0.26, 0.46, 0.045, 0.12, 15, pen.light)


def banana(pen: Pen) -> None:
    """Lies curved like a smile, tips up; bend and thickness vary, sometimes one more behind it."""
    thick, sag = pen.vary(0.12, 0.15), pen.vary(0.4, 0.5)
    behind = pen.chance(0.3)
    for lift, colour in ((-0.14, pen.light), (0.0, pen.main)) if behind else ((0.0, pen.main),):
        way = [(0.08 + 0.8 * s, 0.3 + lift + 1.1 * sag * (1 - (1.7 * s - 0.75) ** 2) - 0.1) for s in _steps(30)]
        half = [thick * (0.3 + 0.7 * math.sin(math.pi * s) ** 0.7) for s in _steps(30)]
        for (x, y), r in zip(way, half, strict=True):
            pen.ellipse(x, y, r, r, colour)
    pen.line([(x, y + 0.02) for x, y in way[4:27]], 0.025, pen.ink)
    pen.line([way[-1], (0.93, way[-1][1] - 0.12)], 0.07, STALK)
    pen.ellipse(*way[0], 0.045, 0.045, STALK)


def carrot(pen: Pen) -> None:
    """A root tapering downward under green tops; breadth, rings and the number of stems vary."""
    wide = pen.vary(0.19, 0.27)
    for turn in (-32, 0, 32) if pen.chance(0.5) else (-40, -14, 14, 40):
        lean = turn + pen.vary(-5, 5)
        x, y = 0.5 + 0.17 * math.sin(math.radians(lean)), 0.38 - 0.17 * math.cos(math.radians(lean))
        pen.tilted(x, y, 0.055, 0.16, lean, GREENS)
    pen.polygon([(0.5 - wide, 0.4), (0.5 + wide, 0.4), (0.54, 0.94), (0.5, 0.96), (0.46, 0.94)], pen.main)
    pen.ellipse(0.5, 0.4, wide, 0.1, pen.main)
    for i, y in enumerate((0.42, 0.54, 0.66, 0.78)):
        left = wide * (0.97 - y) / 0.59
        start = 0.5 - left if i % 2 else 0.5 + left
        pen.line([(start, y), (start + (1 if i % 2 else -1) * left * pen.vary(0.6, 1.1), y + 0.02)], 0.028, pen.ink)


def pizza(pen: Pen) -> None:
    """A slice, crust up; breadth varies, three to five toppings, herbs are optional."""
    half, tip = pen.vary(0.36, 0.42), pen.vary(0.46, 0.54)
    pen.polygon([(0.5 - half, 0.2), (0.5 + half, 0.2), (tip, 0.96)], pen.main)
    pen.line([(0.53 - half, 0.18), (0.5, 0.12), (0.47 + half, 0.18)], 0.13, CRUST)
    pen.line([(0.53 - half, 0.235), (0.5, 0.185), (0.47 + half, 0.235)], 0.025, (150, 95, 45))
    for x, y in ((0.33, 0.34), (0.65, 0.36), (0.48, 0.52), (0.5, 0.74), (0.49, 0.27))[: int(pen.rng.integers(3, 6))]:
        r = pen.vary(0.065, 0.085) * (0.7 if y > 0.6 or y < 0.3 else 1)
        pen.ellipse(x, y, r + 0.015, r + 0.015, pen.dark)
        pen.ellipse(x, y, r, r, pen.accent)
    if pen.chance(0.6):
        for x, y in ((0.42, 0.42), (0.58, 0.48), (0.52, 0.64), (0.76, 0.3), (0.24, 0.28)):
            pen.tilted(x, y, 0.04, 0.018, pen.vary(0, 180), GREENS)


def cake(pen: Pen) -> None:
    """One or two tiers with icing that drips, under one to four candles, on a plate."""
    icing = pen.light if pen.chance(0.6) and sum(pen.main) < 600 else pen.accent
    two, candles = pen.chance(0.6), int(pen.rng.integers(1, 5))
    top, half = (0.32, 0.26) if two else (0.42, 0.4)
    for i in range(candles):
        x = 0.5 + (i - (candles - 1) / 2) * half * 0.45
        pen.rectangle(x - 0.025, top - 0.18, x + 0.025, top + 0.02, pen.accent)
        pen.ellipse(x, top - 0.22, 0.03, 0.055, FLAME)
    pen.ellipse(0.5, 0.92, 0.46, 0.04, WHITE)
    tiers = [(0.6, 0.4), (top, half)] if two else [(top, half)]
    for y, wide in tiers:
        pen.rectangle(0.5 - wide, y, 0.5 + wide, 0.91 if y == tiers[0][0] else 0.62, pen.main, 0.03)
        pen.rectangle(0.5 - wide, y, 0.5 + wide, y + 0.07, icing, 0.03)
        drips = 5 if wide < 0.3 else 8
        for i in range(drips):
            x = 0.5 - wide + wide / drips * (2 * i + 1)
            pen.line([(x, y + 0.05), (x, y + pen.vary(0.08, 0.15))], 1.3 * wide / drips, icing)
    if pen.chance(0.5):
        pen.rectangle(0.1, 0.8, 0.9, 0.85, pen.accent)


def ice_cream(pen: Pen) -> None:
    """A cone with one big or three smaller balls; a cherry, sprinkles and the edge vary."""
    tip = pen.vary(0.94, 0.96)
    pen.polygon([(0.24, 0.5), (0.76, 0.5), (0.5, tip)], WAFER)
    for share in (0.0, 0.35, 0.7):
        pen.line([(0.26 + 0.48 * share, 0.52), (0.63 - 0.13 * (1 - share), 0.72 + 0.2 * (1 - share))], 0.018, STALK)
        pen.line([(0.74 - 0.48 * share, 0.52), (0.37 + 0.13 * (1 - share), 0.72 + 0.2 * (1 - share))], 0.018, STALK)
    balls = [(0.5, 0.36, 0.28)] if pen.chance(0.5) else [(0.5, 0.27, 0.19), (0.34, 0.43, 0.19), (0.66, 0.43, 0.19)]
    for x, y, r in balls:
        pen.ellipse(x, y, r + 0.012, r + 0.012, pen.dark)
        pen.ellipse(x, y, r, r, pen.main)
        pen.tilted(x - r * 0.45, y - r * 0.4, r * 0.14, r * 0.3, 40, pen.light)
    for i in range(6):
        pen.ellipse(0.27 + 0.092 * i, 0.54, 0.06, pen.vary(0.04, 0.08), pen.main)
    if pen.chance(0.5):
        pen.ellipse(0.5, 0.1, 0.06, 0.06, pen.accent)
    else:
        for _ in range(7):
            pen.tilted(pen.vary(0.32, 0.68), pen.vary(0.2, 0.45), 0.035, 0.014, pen.vary(0, 180), pen.accent)


def watermelon(pen: Pen) -> None:
    """Half a slice, rind below; its depth and the number of seeds vary."""
    deep, seeds, top = pen.vary(0.42, 0.56), int(pen.rng.integers(4, 7)), 0.24
    seed = BLACK if pen.ink == pen.dark else WHITE
    pen.pie(0.5, top, 0.46, deep + 0.06, 0, 180, (34, 110, 48))
    pen.pie(0.5, top, 0.405, deep, 0, 180, (225, 240, 200))
    pen.pie(0.5, top, 0.37, deep - 0.04, 0, 180, pen.main)
    pen.line([(0.14, top + 0.01), (0.86, top + 0.01)], 0.02, pen.light)
    for i in range(seeds):
        turn = math.radians(20 + 140 * i / (seeds - 1))
        pen.tilted(0.5 + 0.25 * math.cos(turn), top + 0.03 + 0.6 * deep * math.sin(turn), 0.024, 0.042, 0, seed)
    for x in (0.42, 0.58):
        pen.tilted(x, top + deep * 0.3, 0.024, 0.042, 0, seed)


def _steps(count: int) -> list[float]:
    """`count` even steps from 0 to 1."""
    return [i / (count - 1) for i in range(count)]
