"""Plants.

Each function draws one upright thing that fills most of the unit square; its docstring lists what varies.
"""

from __future__ import annotations

import math

from data.demo.world.pen import Pen

BARK, STALK, CREAM, SPINE = (110, 72, 40), (40, 125, 55), (242, 226, 196), (250, 246, 220)


def tree(pen: Pen) -> None:
    """A round crown of five to seven clumps, or a fir of three tiers; the trunk varies, fruit is optional."""
    thick = pen.vary(0.06, 0.09)
    pen.polygon([(0.5 - thick, 0.5), (0.5 + thick, 0.5), (0.53 + thick, 0.96), (0.47 - thick, 0.96)], BARK)
    if pen.chance(0.3):
        for top, base, half in ((0.42, 0.82, 0.4), (0.22, 0.6, 0.33), (0.04, 0.38, 0.24)):
            pen.polygon([(0.5, top), (0.5 + half, base), (0.5 - half, base)], pen.main)
            pen.line([(0.5 - half + 0.03, base), (0.5 + half - 0.03, base)], 0.03, pen.ink)
        return
    clumps, wide = int(pen.rng.integers(5, 8)), pen.vary(0.21, 0.25)
    for i in range(clumps):
        turn = math.pi * (0.9 + 1.2 * i / (clumps - 1))
        pen.ellipse(0.5 + wide * math.cos(turn), 0.42 + 0.2 * math.sin(turn), 0.2, 0.17, pen.main)
    pen.ellipse(0.5, 0.4, 0.3, 0.22, pen.main)
    pen.line([(0.5, 0.62), (0.5, 0.5), (0.4, 0.42)], 0.04, BARK)
    pen.line([(0.5, 0.54), (0.6, 0.46)], 0.035, BARK)
    for x, y in ((0.28, 0.34), (0.48, 0.2), (0.7, 0.3), (0.26, 0.5), (0.74, 0.5)):
        if pen.chance(0.7):
            pen.arc(x, y, 0.07, 0.06, 200, 340, 0.025, pen.ink)
    fruit = pen.chance(0.35)
    for x, y in ((0.36, 0.26), (0.62, 0.22), (0.22, 0.44), (0.78, 0.42), (0.6, 0.37)) if fruit else ():
        pen.ellipse(x, y, 0.045, 0.045, pen.accent)


def flower(pen: Pen) -> None:
    """Five to eight petals, round or long, on a leafy stalk."""
    petals, reach, slim = int(pen.rng.integers(5, 9)), pen.vary(0.19, 0.22), pen.vary(0.8, 1.0)
    pen.line([(0.5, 0.4), (0.5, 0.95)], 0.05, STALK)
    pen.tilted(0.64, 0.78, 0.16, 0.06, pen.vary(-45, -20), STALK)
    if pen.chance(0.7):
        pen.tilted(0.36, 0.82, 0.16, 0.06, pen.vary(20, 45), STALK)
    for i in range(petals):
        turn = 360 * i / petals - 90
        x, y = 0.5 + reach * math.cos(math.radians(turn)), 0.39 + reach * math.sin(math.radians(turn))
        across = reach * math.sin(math.pi / petals) * slim
        pen.tilted(x, y, 0.145, across + 0.015, turn, pen.dark)
        pen.tilted(x, y, 0.13, across, turn, pen.main)
    pen.ellipse(0.5, 0.39, 0.115, 0.115, pen.dark)
    pen.ellipse(0.5, 0.39, 0.095, 0.095, pen.accent)


def leaf(pen: Pen) -> None:
    """A pointed blade on a stalk; its width, belly and number of veins vary, the edge is smooth or toothed."""
    wide, belly, teeth = pen.vary(0.27, 0.38), pen.vary(0.8, 1.2), pen.chance(0.4)
    steps = [i / 24 for i in range(25)]
    half = [wide * math.sin(math.pi * s**belly) ** 0.85 * (0.88 if teeth and i % 2 else 1) for i, s in enumerate(steps)]
    edge = [(h, 0.04 + 0.74 * s) for h, s in zip(half, steps, strict=True)]
    pen.line([(0.5, 0.75), (0.5, 0.85), (0.55, 0.94)], 0.05, pen.dark)
    pen.polygon([(0.5 + h, y) for h, y in edge] + [(0.5 - h, y) for h, y in reversed(edge)], pen.main)
    pen.line([(0.5, 0.12), (0.5, 0.78)], 0.035, pen.ink)
    veins = int(pen.rng.integers(3, 5))
    for i in range(veins):
        y = 0.34 + 0.36 * i / (veins - 1)
        reach = wide * 0.75 * math.sin(math.pi * ((y - 0.14) / 0.74) ** belly)
        for side in (-1, 1):
            pen.line([(0.5, y), (0.5 + side * reach, y - 0.12)], 0.024, pen.ink)


def mushroom(pen: Pen) -> None:
    """A domed cap, high or flat, on a pale stalk; spots on the cap, a ring is optional."""
    high, stalk = pen.vary(0.38, 0.54), pen.vary(0.09, 0.16)
    pen.polygon([(0.5 - stalk, 0.55), (0.5 + stalk, 0.55), (0.54 + stalk, 0.9), (0.46 - stalk, 0.9)], CREAM)
    pen.ellipse(0.5, 0.9, stalk + 0.04, 0.05, CREAM)
    if pen.chance(0.5):
        pen.polygon([(0.49 - stalk, 0.66), (0.51 + stalk, 0.66), (0.55 + stalk, 0.74), (0.45 - stalk, 0.74)], SPINE)
    pen.ellipse(0.5, 0.58, 0.44, 0.07, pen.dark)
    pen.pie(0.5, 0.58, 0.46, high, 180, 360, pen.main)
    for x, y, r in ((0.5, 0.26, 0.075), (0.27, 0.42, 0.07), (0.72, 0.4, 0.08), (0.49, 0.46, 0.055)):
        pen.ellipse(x, y + (0.5 - high) * 0.6, r * pen.vary(0.8, 1.1), r * 0.85, pen.accent)


def cactus(pen: Pen) -> None:
    """A column with one or two raised arms in a pot; heights vary, a blossom is optional."""
    top, thick = pen.vary(0.15, 0.24), pen.vary(0.2, 0.26)
    both, left, right = pen.chance(0.75), pen.vary(0.24, 0.38), pen.vary(0.24, 0.38)
    pen.line([(0.5, 0.62), (0.17, 0.6), (0.17, left)], 0.14, pen.main)
    if both:
        pen.line([(0.5, 0.54), (0.83, 0.52), (0.83, right)], 0.14, pen.main)
    pen.line([(0.5, top + thick / 2 - 0.06), (0.5, 0.74)], thick, pen.main)
    for x in (0.45, 0.55):
        pen.line([(x, top + 0.06), (x, 0.74)], 0.016, pen.ink)
    for i in range(5):
        for x in (0.4, 0.5, 0.6):
            pen.line([(x - 0.02, top + 0.1 + i * 0.12), (x + 0.02, top + 0.08 + i * 0.12)], 0.016, SPINE)
    if pen.chance(0.6):
        pen.regular(0.5, top - 0.02, 0.09, 5, pen.accent, inner=0.55)
    pen.polygon([(0.3, 0.76), (0.7, 0.76), (0.65, 0.96), (0.35, 0.96)], (190, 100, 60))
    pen.rectangle(0.27, 0.72, 0.73, 0.8, (160, 78, 45), 0.02)
