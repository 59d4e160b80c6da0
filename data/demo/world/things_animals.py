"""Animals.

Each function draws one upright thing that fills most of the unit square; its docstring lists what varies.
"""

from __future__ import annotations

import math

from data.demo.world.pen import Pen

BLACK, WHITE = (15, 15, 18), (252, 252, 250)
BEAK, PINK, SKIN, LEATHER = (245, 165, 35), (240, 150, 165), (222, 186, 140), (158, 190, 84)


def fish(pen: Pen) -> None:
    """Swims to the left; deep or slender, with a forked or straight tail and sometimes bars."""
    deep, fork = pen.vary(0.22, 0.32), pen.vary(0.76, 0.86)
    pen.polygon([(0.26, 0.5 - 0.7 * deep), (0.48, 0.46 - deep * 1.25), (0.64, 0.44 - deep * 0.5)], pen.accent)
    pen.polygon([(0.36, 0.5 + 0.8 * deep), (0.56, 0.54 + deep * 1.2), (0.6, 0.5 + deep * 0.6)], pen.accent)
    pen.polygon([(0.62, 0.5), (0.96, 0.5 - deep), (fork, 0.5), (0.96, 0.5 + deep)], pen.accent)
    pen.ellipse(0.41, 0.5, 0.37, deep, pen.main)
    if pen.chance(0.4):
        for x in (0.52, 0.63):
            pen.arc(x - 0.1, 0.5, 0.1, deep * 0.75, -55, 55, 0.035, pen.light)
    pen.arc(0.21, 0.5, 0.1, deep * 0.7, -60, 60, 0.03, pen.ink)
    pen.polygon([(0.38, 0.52), (0.54, 0.48), (0.52, 0.64)], pen.ink)
    pen.line([(0.07, 0.56), (0.14, 0.57)], 0.025, pen.ink)
    _eye(pen, 0.19, 0.44, 0.055)


def bird(pen: Pen) -> None:
    """Stands facing left; plump or slim, with a long or short tail and beak and sometimes a crest."""
    plump, beak, tail = pen.vary(0.19, 0.28), pen.vary(0.05, 0.10), pen.vary(0.28, 0.5)
    for x in (0.46, 0.58):
        pen.line([(x, 0.74), (x, 0.93), (x - 0.07, 0.93)], 0.03, BEAK)
    pen.polygon([(0.66, 0.5), (0.95, tail), (0.96, tail + 0.16), (0.7, 0.72)], pen.dark)
    if pen.chance(0.5):
        pen.polygon([(0.26, 0.16), (0.40, 0.03), (0.36, 0.14), (0.48, 0.1), (0.4, 0.24)], pen.accent)
    pen.polygon([(0.2, 0.26), (0.09 - beak * 0.5, 0.33 + beak * 0.2), (0.2, 0.39)], BEAK)
    pen.tilted(0.52, 0.58, 0.31, plump, 8, pen.main)
    pen.ellipse(0.33, 0.31, 0.19, 0.19, pen.main)
    pen.tilted(0.34, 0.66, 0.12, 0.09, 60, pen.light)
    pen.polygon([(0.44, 0.48), (0.66, 0.45), (0.86, 0.62), (0.62, 0.7), (0.49, 0.62)], pen.accent)
    _eye(pen, 0.28, 0.28, 0.05)


def cat(pen: Pen) -> None:
    """Sits facing the viewer; the tail curls up at its right, whiskers and a light chest vary."""
    ear, wide, tail = pen.vary(0.04, 0.1), pen.vary(0.2, 0.26), pen.vary(0.4, 0.56)
    pen.line([(0.6, 0.88), (0.82, 0.86), (0.9, 0.74), (0.85, tail + 0.06), (0.9, tail)], 0.09, pen.main)
    pen.ellipse(0.45, 0.74, wide + 0.03, 0.22, pen.main)
    pen.ellipse(0.45, 0.6, wide - 0.04, 0.22, pen.main)
    if pen.chance(0.6):
        pen.ellipse(0.45, 0.68, 0.09, 0.13, pen.light)
    for side in (-1, 1):
        pen.polygon([(0.45 + side * x, y) for x, y in ((0.05, 0.19), (0.27, ear), (0.27, 0.34))], pen.main)
        pen.polygon([(0.45 + side * x, y) for x, y in ((0.13, 0.2), (0.23, ear + 0.08), (0.24, 0.27))], PINK)
        pen.ellipse(0.45 + side * 0.1, 0.93, 0.09, 0.04, pen.light)
    pen.ellipse(0.45, 0.34, 0.29, 0.22, pen.main)
    for side in (-1, 1):
        pen.ellipse(0.45 + side * 0.12, 0.31, 0.06, 0.055, (190, 225, 90))
        pen.ellipse(0.45 + side * 0.12, 0.31, 0.022, 0.055, BLACK)
        for y in (0.39, 0.45):
            pen.line([(0.45 + side * 0.12, 0.41), (0.45 + side * 0.38, y)], 0.015, pen.ink)
    pen.polygon([(0.4, 0.38), (0.5, 0.38), (0.45, 0.44)], PINK)
    pen.line([(0.37, 0.46), (0.45, 0.45), (0.53, 0.46)], 0.02, pen.ink)


def snail(pen: Pen) -> None:
    """Crawls to the left under a coiled shell; shell size, turns and feelers vary."""
    shell, feeler = pen.vary(0.28, 0.36), pen.vary(0.22, 0.36)
    pen.polygon([(0.3, 0.8), (0.9, 0.8), (0.96, 0.92), (0.08, 0.92)], SKIN)
    for x in (0.06, 0.2):
        pen.line([(0.14, 0.62), (x, feeler)], 0.035, SKIN)
        pen.ellipse(x, feeler, 0.035, 0.035, BLACK)
    pen.line([(0.15, 0.62), (0.15, 0.83), (0.32, 0.86)], 0.17, SKIN)
    pen.ellipse(0.59, 0.84 - shell, shell + 0.015, shell + 0.015, pen.dark)
    pen.ellipse(0.59, 0.84 - shell, shell - 0.01, shell - 0.01, pen.main)
    turns = pen.vary(1.6, 2.3)
    steps = [i / 40 for i in range(41)]
    coil = [(shell * 0.8 * s, math.pi * 0.5 - 2 * math.pi * turns * (1 - s)) for s in steps]
    pen.line([(0.59 + r * math.cos(a), 0.84 - shell + r * math.sin(a)) for r, a in coil], 0.04, pen.ink)
    pen.arc(0.13, 0.66, 0.06, 0.06, 60, 150, 0.02, BLACK)


def butterfly(pen: Pen) -> None:
    """Wings spread; upper and lower wings vary in size and tilt, with one or two spots each."""
    upper, lower, tilt = pen.vary(0.17, 0.23), pen.vary(0.13, 0.18), pen.vary(35, 60)
    rim, two = pen.chance(0.5), pen.chance(0.5)
    for side in (-1, 1):
        if rim:
            pen.tilted(0.5 + side * 0.22, 0.35, 0.27, upper, -side * tilt, pen.dark)
            pen.tilted(0.5 + side * 0.19, 0.7, 0.24, lower, side * tilt, pen.dark)
        pen.tilted(0.5 + side * 0.21, 0.36, 0.25, upper - 0.03 * rim, -side * tilt, pen.main)
        pen.tilted(0.5 + side * 0.18, 0.69, 0.21, lower - 0.03 * rim, side * tilt, pen.main)
        pen.ellipse(0.5 + side * 0.3, 0.27, 0.075, 0.075, pen.accent)
        pen.ellipse(0.5 + side * 0.22, 0.73, 0.055, 0.055, pen.accent)
        if two:
            pen.ellipse(0.5 + side * 0.17, 0.42, 0.045, 0.045, pen.light)
        pen.line([(0.5, 0.26), (0.5 + side * 0.05, 0.12), (0.5 + side * 0.12, 0.07)], 0.022, BLACK)
    pen.ellipse(0.5, 0.53, 0.045, 0.29, BLACK)
    pen.ellipse(0.5, 0.25, 0.06, 0.06, BLACK)


def turtle(pen: Pen) -> None:
    """Walks to the left under a domed shell; dome height, neck and plates vary."""
    dome, neck = pen.vary(0.42, 0.56), pen.vary(0.36, 0.54)
    pen.polygon([(0.84, 0.7), (0.97, 0.82), (0.8, 0.8)], LEATHER)
    for x in (0.3, 0.68):
        pen.rectangle(x, 0.68, x + 0.14, 0.92, LEATHER, 0.05)
    pen.line([(0.32, 0.72), (0.16, neck + 0.03)], 0.12, LEATHER)
    pen.ellipse(0.14, neck, 0.11, 0.09, LEATHER)
    pen.pie(0.56, 0.76, 0.36, dome, 180, 360, pen.main)
    for x in (0.36, 0.56, 0.76):
        pen.regular(x, 0.6 - (dome - 0.42) * 0.3 - (0.1 if x == 0.56 else 0), 0.09, 6, pen.ink)
    pen.rectangle(0.17, 0.72, 0.95, 0.79, pen.light, 0.035)
    pen.ellipse(0.1, neck - 0.02, 0.025, 0.025, BLACK)
    pen.arc(0.1, neck + 0.01, 0.06, 0.04, 40, 130, 0.018, BLACK)


def snake(pen: Pen) -> None:
    """Winds upward in three or four bends, thick or thin, the forked tongue out; sometimes dots."""
    bends, reach, thick = pen.vary(1.45, 2.05), pen.vary(0.25, 0.33), pen.vary(0.11, 0.15)
    way = [i / 120 for i in range(121)]
    body = [(0.56 + reach * math.cos(2 * math.pi * bends * s + math.pi), 0.18 + 0.72 * s) for s in way]
    for i, (x, y) in enumerate(body):
        r = thick / 2 * min(1.0, 0.25 + (120 - i) / 32)
        pen.ellipse(x, y, r, r, pen.main)
    if pen.chance(0.5):
        for x, y in body[16:104:12]:
            pen.ellipse(x, y, thick * 0.25, thick * 0.25, pen.accent)
    x, y = body[0][0], 0.16
    pen.line([(x - 0.1, y), (x - 0.17, y + 0.02)], 0.025, (215, 25, 45))
    pen.ellipse(x + 0.03, y, 0.15, 0.1, pen.main)
    _eye(pen, x - 0.02, y - 0.03, 0.045)


def rabbit(pen: Pen) -> None:
    """Sits facing the viewer; long ears apart or together, one sometimes bent."""
    spread, long, bent = pen.vary(4, 16), pen.vary(0.2, 0.23), pen.chance(0.3)
    pen.ellipse(0.5, 0.78, 0.27, 0.18, pen.main)
    for side in (-1, 1):
        lean = side * spread
        ear = 0.15 if bent and side == 1 else long
        x, y = 0.5 + side * (0.11 + spread / 300), 0.49 - ear
        pen.tilted(x, y, 0.085, ear, lean, pen.main)
        pen.tilted(x, y + 0.01, 0.042, ear - 0.06, lean, PINK)
        pen.ellipse(0.5 + side * 0.17, 0.91, 0.12, 0.05, pen.light)
    if bent:
        pen.tilted(0.74, 0.27, 0.15, 0.08, 25, pen.main)
    pen.ellipse(0.5, 0.52, 0.25, 0.21, pen.main)
    pen.ellipse(0.5, 0.61, 0.13, 0.09, pen.light)
    pen.rectangle(0.46, 0.63, 0.54, 0.73, WHITE)
    for side in (-1, 1):
        _eye(pen, 0.5 + side * 0.12, 0.48, 0.05)
    pen.polygon([(0.45, 0.56), (0.55, 0.56), (0.5, 0.62)], PINK)
    pen.line([(0.5, 0.62), (0.5, 0.72)], 0.015, BLACK)


def spider(pen: Pen) -> None:
    """Seen from above: eight bent legs around a round body; body size, legs and a back mark vary."""
    body, knee = pen.vary(0.21, 0.27), pen.vary(0.05, 0.12)
    for side in (-1, 1):
        for hip, lift, foot in ((0.36, 0.2, 0.06), (0.4, 0.34, 0.34), (0.46, 0.56, 0.72), (0.5, 0.7, 0.95)):
            bend = (0.5 + side * (0.3 + knee * 0.5), lift - knee * 0.5)
            pen.line([(0.5, hip), bend, (0.5 + side * pen.vary(0.4, 0.45), foot)], 0.04, pen.dark)
    pen.ellipse(0.5, 0.63, body, body + 0.02, pen.main)
    pen.ellipse(0.5, 0.34, 0.14, 0.13, pen.main)
    if pen.chance(0.6):
        pen.polygon([(0.42, 0.54), (0.58, 0.54), (0.44, 0.72), (0.56, 0.72)], pen.accent)
    for side in (-1, 1):
        _eye(pen, 0.5 + side * 0.06, 0.29, 0.045)


def crab(pen: Pen) -> None:
    """Faces the viewer with both claws raised; shell width, claw size and stalks vary."""
    wide, claw, stalk = pen.vary(0.27, 0.33), pen.vary(0.12, 0.145), pen.vary(0.3, 0.4)
    for side in (-1, 1):
        for i in range(3):
            knee, foot = 0.5 + side * (0.42 - i * 0.04), 0.5 + side * (0.45 - i * 0.1)
            pen.line([(0.5 + side * 0.2, 0.64), (knee, 0.64 + i * 0.08), (foot, 0.8 + i * 0.06)], 0.04, pen.dark)
        x = 0.5 + side * 0.32
        pen.line([(0.5 + side * 0.22, 0.56), (0.5 + side * 0.4, 0.44), (x, 0.28)], 0.06, pen.dark)
        pen.ellipse(x, 0.22, claw, claw, pen.main)
        pen.erase_polygon([(x, 0.24), (x - 0.08, 0.04), (x + 0.06, 0.04)])
        pen.line([(0.5 + side * 0.09, 0.5), (0.5 + side * 0.1, stalk)], 0.03, pen.dark)
    pen.ellipse(0.5, 0.64, wide, 0.2, pen.main)
    for side in (-1, 1):
        _eye(pen, 0.5 + side * 0.1, stalk, 0.055)
    pen.arc(0.5, 0.64, 0.13, 0.1, 20, 160, 0.03, pen.ink)
    if pen.chance(0.5):
        for x in (0.36, 0.64):
            pen.ellipse(x, 0.6, 0.035, 0.03, pen.light)


def elephant(pen: Pen) -> None:
    """Walks to the left; ear, legs and tusk vary, the trunk hangs or is raised."""
    raised, ear, leg = pen.chance(0.4), pen.vary(0.13, 0.17), pen.vary(0.12, 0.15)
    pen.line([(0.92, 0.42), (0.95, 0.62)], 0.03, pen.dark)
    for x in (0.42, 0.76):
        pen.rectangle(x, 0.55, x + leg, 0.94, pen.main)
        pen.rectangle(x, 0.88, x + leg, 0.94, pen.light)
    pen.ellipse(0.64, 0.46, 0.31, 0.26, pen.main)
    trunk = [(0.14, 0.46), (0.1, 0.64), (0.1, 0.8), (0.2, 0.86)]
    if raised:
        trunk = [(0.16, 0.44), (0.1, 0.5), (0.08, 0.36), (0.08, 0.14), (0.16, 0.1)]
    pen.line(trunk, 0.09, pen.main)
    pen.ellipse(0.28, 0.36, 0.2, 0.2, pen.main)
    pen.polygon([(0.2, 0.48), (0.3, 0.5), (0.17, 0.68)], WHITE)
    pen.ellipse(0.42, 0.36, ear + 0.015, 0.2, pen.dark)
    pen.ellipse(0.42, 0.36, ear - 0.02, 0.165, pen.light)
    _eye(pen, 0.2, 0.32, 0.04)


def _eye(pen: Pen, x: float, y: float, r: float) -> None:
    """A black pupil on white, seen on every colour."""
    pen.ellipse(x, y, r, r, WHITE)
    pen.ellipse(x, y, r * 0.6, r * 0.6, BLACK)
