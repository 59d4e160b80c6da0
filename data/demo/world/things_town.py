"""Things of the town and of the road.

Each function draws one upright thing that fills most of the unit square; its docstring lists what varies.
"""

from __future__ import annotations

import math

from data.demo.world.colours import mix
from data.demo.world.pen import Pen

TYRE = (48, 48, 52)
STEEL = (180, 184, 190)
GLASS = (185, 222, 245)
LIT = (255, 225, 90)
WHITE = (246, 246, 242)
SMOKE = (215, 215, 218)
SEA = (60, 130, 190)


def _wheel(pen: Pen, x: float, y: float, radius: float) -> None:
    pen.ellipse(x, y, radius, radius, TYRE)
    pen.ellipse(x, y, radius * 0.5, radius * 0.5, STEEL)


def boat(pen: Pen) -> None:
    """Sailing boat: how deep the hull is; one or two sails; a pennant; a stripe."""
    deck, top, keel = pen.vary(0.66, 0.72), pen.vary(0.08, 0.14), pen.vary(0.12, 0.2)
    pen.line([(0.48, top), (0.48, deck)], 0.06, (120, 78, 40))
    pen.polygon([(0.53, top + 0.05), (0.53, deck - 0.06), (pen.vary(0.84, 0.92), deck - 0.06)], WHITE)
    if pen.chance(0.7):
        pen.polygon([(0.43, top + 0.12), (0.43, deck - 0.06), (pen.vary(0.12, 0.2), deck - 0.06)], pen.accent)
    pen.polygon([(0.04, deck), (0.96, deck), (0.96 - keel, 0.95), (0.04 + keel, 0.95)], pen.main)
    pen.line([(0.12, deck + 0.07), (0.88, deck + 0.07)], 0.04, pen.light)
    pen.polygon([(0.48, 0.04), (0.48, 0.14), (0.66, 0.09)], pen.accent)


def car(pen: Pen) -> None:
    """Faces left or right; long or short cabin, high or low; luggage on the roof."""
    left, right, roof, side = pen.vary(0.18, 0.26), pen.vary(0.72, 0.8), pen.vary(0.24, 0.32), pen.chance(0.5)
    pen.polygon([(left, 0.52), (left + 0.1, roof), (right - 0.14, roof), (right, 0.52)], pen.main)
    pen.rectangle(0.04, 0.48, 0.96, 0.76, pen.main, 0.09)
    middle = (left + right) / 2
    pen.polygon(
        [(left + 0.08, 0.5), (left + 0.13, roof + 0.06), (middle - 0.04, roof + 0.06), (middle - 0.04, 0.5)], GLASS
    )
    pen.polygon(
        [(middle + 0.03, 0.5), (middle + 0.03, roof + 0.06), (right - 0.16, roof + 0.06), (right - 0.08, 0.5)], GLASS
    )
    pen.line([(0.1, 0.7), (0.9, 0.7)], 0.04, pen.dark)
    pen.ellipse(0.9 if side else 0.1, 0.57, 0.05, 0.05, LIT)
    pen.rectangle(0.04 if side else 0.91, 0.54, 0.09 if side else 0.96, 0.61, (220, 50, 45))
    if pen.chance(0.3):
        pen.rectangle(left + 0.12, roof - 0.1, right - 0.16, roof - 0.01, pen.accent, 0.02)
    radius = pen.vary(0.12, 0.14)
    _wheel(pen, 0.26, 0.76, radius)
    _wheel(pen, 0.75, 0.76, radius)


def bus(pen: Pen) -> None:
    """Faces left or right; three or four windows; one or two decks; a stripe."""
    decks, panes, side = (2 if pen.chance(0.35) else 1), int(pen.rng.integers(3, 5)), pen.chance(0.5)
    roof = 0.08 if decks == 2 else pen.vary(0.2, 0.26)
    pen.rectangle(0.04, roof, 0.96, 0.84, pen.main, 0.07)
    rows = ((0.15, 0.31), (0.42, 0.58)) if decks == 2 else ((roof + 0.1, roof + 0.3),)
    step = 0.62 / panes
    for y0, y1 in rows:
        for i in range(panes):
            x = (0.1 if side else 0.3) + i * step
            pen.rectangle(x, y0, x + step - 0.04, y1, GLASS, 0.015)
    door = 0.76 if side else 0.08
    pen.rectangle(door, rows[-1][0], door + 0.16, 0.8, GLASS, 0.015)
    pen.line([(door + 0.08, rows[-1][0]), (door + 0.08, 0.8)], 0.03, pen.dark)
    low = 0.1 if side else 0.3
    pen.line([(low, 0.66), (low + 0.58, 0.66)], 0.05, pen.accent)
    pen.ellipse(0.94 if side else 0.06, 0.76, 0.035, 0.035, LIT)
    for x in (0.25, 0.7) if side else (0.32, 0.75):
        _wheel(pen, x, 0.84, 0.115)


def bicycle(pen: Pen) -> None:
    """Faces left or right; the size of the wheels; racing or upright handlebars; a basket."""
    turn, radius, racing = pen.chance(0.5), pen.vary(0.19, 0.21), pen.chance(0.5)
    y = 0.86 - radius

    def at(*points: tuple[float, float]) -> list[tuple[float, float]]:
        return [(1 - px if turn else px, py) for px, py in points]

    back, front, crank, seat, head = (0.25, y), (0.75, y), (0.46, y), (0.39, 0.36), (0.67, 0.36)
    for x in (0.25, 0.75):
        pen.arc(x, y, radius, radius, 0, 360, 0.065, TYRE)
        pen.ellipse(x, y, 0.045, 0.045, STEEL)
    if pen.chance(0.3):
        ((bx, by),) = at((0.84, 0.34))
        pen.rectangle(bx - 0.11, by - 0.06, bx + 0.11, by + 0.08, pen.accent, 0.02)
    pen.line(at(back, seat, head, crank, back), 0.085, pen.main)
    pen.line(at(seat, crank), 0.085, pen.main)
    pen.line(at((0.64, 0.22), front), 0.085, pen.main)
    bar = [(0.62, 0.2), (0.78, 0.2), (0.8, 0.29), (0.72, 0.3)] if racing else [(0.53, 0.24), (0.6, 0.19), (0.7, 0.19)]
    pen.line(at(*bar), 0.065, TYRE)
    pen.line(at(seat, (0.37, 0.25)), 0.065, pen.dark)
    pen.line(at((0.28, 0.23), (0.44, 0.24)), 0.085, pen.accent)
    pen.ellipse(*at(crank)[0], 0.065, 0.065, pen.dark)


def rocket(pen: Pen) -> None:
    """Slim or stout; one or two portholes; the fins; the flame."""
    half, fin = pen.vary(0.16, 0.21), pen.vary(0.15, 0.22)
    flame = pen.vary(0.9, 0.98)
    pen.polygon([(0.38, 0.76), (0.62, 0.76), (0.58, 0.86), (0.5, flame), (0.42, 0.86)], (245, 130, 35))
    pen.polygon([(0.44, 0.76), (0.56, 0.76), (0.5, flame - 0.08)], LIT)
    for side in (-1, 1):
        x = 0.5 + side * (half - 0.02)
        pen.polygon([(x, 0.5), (x + side * fin, 0.72), (x + side * fin, 0.86), (x, 0.76)], pen.accent)
    pen.rectangle(0.5 - half, 0.34, 0.5 + half, 0.74, pen.main)
    pen.pie(0.5, 0.35, half, 0.31, 180, 360, pen.main)
    pen.polygon([(0.5 - half, 0.73), (0.5 + half, 0.73), (0.62, 0.8), (0.38, 0.8)], pen.dark)
    tip = half * 0.62
    pen.polygon(
        [(0.5, 0.03), (0.5 + tip, 0.11), (0.5 + tip * 1.25, 0.17), (0.5 - tip * 1.25, 0.17), (0.5 - tip, 0.11)],
        pen.accent,
    )
    for y in (0.34, 0.56) if pen.chance(0.5) else (0.4,):
        pen.ellipse(0.5, y, 0.095, 0.095, STEEL)
        pen.ellipse(0.5, y, 0.06, 0.06, GLASS)


def airplane(pen: Pen) -> None:
    """Seen from the side, climbing left or right; the sweep of the wing; three to five windows; a stripe."""
    turn, wing, panes = pen.chance(0.5), pen.vary(0.8, 0.9), int(pen.rng.integers(3, 6))

    def at(*points: tuple[float, float]) -> list[tuple[float, float]]:
        return [(1 - x if turn else x, y) for x, y in points]

    pen.polygon(at((0.5, 0.46), (0.62, 0.46), (0.44, 0.2), (0.36, 0.2)), pen.dark)
    tail = pen.vary(0.12, 0.2)
    pen.polygon(at((0.06, tail), (0.18, tail), (0.36, 0.46), (0.12, 0.5)), pen.accent)
    pen.polygon(at((0.05, 0.42), (0.3, 0.4), (0.78, 0.4), (0.78, 0.64), (0.3, 0.64), (0.16, 0.56)), pen.main)
    ((nose, _),) = at((0.77, 0.5))
    pen.ellipse(nose, 0.52, 0.19, 0.12, pen.main)
    pen.polygon(at((0.79, 0.42), (0.87, 0.44), (0.91, 0.49), (0.79, 0.49)), GLASS)
    for i in range(panes):
        ((x, y),) = at((0.34 + i * 0.38 / (panes - 1), 0.48))
        pen.ellipse(x, y, 0.035, 0.035, GLASS)
    pen.polygon(at((0.4, 0.56), (0.64, 0.56), (0.36, wing), (0.24, wing)), pen.dark)
    pen.polygon(at((0.04, 0.46), (0.18, 0.46), (0.1, 0.6), (0.02, 0.6)), pen.accent)


def train(pen: Pen) -> None:
    """Steam engine: faces left or right; the chimney's shape; two or three small wheels; the smoke."""
    turn, flare, small = pen.chance(0.5), pen.vary(0.0, 0.05), int(pen.rng.integers(1, 3))

    def box(x0: float, y0: float, x1: float, y1: float, fill: tuple[int, int, int], radius: float = 0.0) -> None:
        pen.rectangle(*((1 - x1, y0, 1 - x0, y1) if turn else (x0, y0, x1, y1)), fill, radius)

    def at(*points: tuple[float, float]) -> list[tuple[float, float]]:
        return [(1 - x if turn else x, y) for x, y in points]

    for x, y, r in ((0.73, 0.12, 0.07), (0.6, 0.09, 0.06), (0.49, 0.08, 0.045))[: int(pen.rng.integers(2, 4))]:
        pen.ellipse(*at((x, y))[0], r, r, SMOKE)
    pen.polygon(at((0.7, 0.42), (0.7 - flare, 0.2), (0.82 + flare, 0.2), (0.82, 0.42)), TYRE)
    pen.ellipse(*at((0.52, 0.4))[0], 0.07, 0.08, pen.accent)
    pen.polygon(at((0.84, 0.68), (0.97, 0.9), (0.78, 0.9)), pen.dark)
    box(0.34, 0.4, 0.9, 0.7, pen.main, 0.07)
    box(0.06, 0.24, 0.42, 0.76, pen.main)
    box(0.03, pen.vary(0.17, 0.21), 0.46, 0.26, pen.accent, 0.02)
    box(0.13, 0.32, 0.34, 0.5, GLASS)
    box(0.06, 0.68, 0.88, 0.78, pen.dark)
    box(0.58, 0.4, 0.63, 0.68, pen.accent)
    pen.ellipse(*at((0.88, 0.5))[0], 0.05, 0.05, LIT)
    _wheel(pen, *at((0.24, 0.79))[0], 0.16)
    for i in range(small + 1):
        _wheel(pen, *at((0.75 - i * (0.26 / small), 0.85))[0], 0.1 if small == 1 else 0.075)


def traffic_light(pen: Pen) -> None:
    """Wide or narrow case, with or without hoods; one of the three lamps burns, or all do; the pole."""
    half, burning, hoods = pen.vary(0.18, 0.23), int(pen.rng.integers(0, 4)), pen.chance(0.5)
    pen.line([(0.5, 0.7), (0.5, 0.92)], 0.11, STEEL)
    pen.rectangle(0.34, 0.91, 0.66, 0.96, TYRE, 0.02)
    for y in (0.16, 0.41, 0.66) if hoods else ():
        pen.polygon(
            [(0.38 - half, y - 0.1), (0.62 + half, y - 0.1), (0.5 + half, y + 0.06), (0.5 - half, y + 0.06)], pen.dark
        )
    pen.rectangle(0.5 - half, 0.04, 0.5 + half, 0.8, pen.main, 0.06)
    for i, lamp in enumerate(((240, 50, 45), (255, 205, 50), (60, 210, 90))):
        lit = burning in (i, 3)
        pen.ellipse(0.5, 0.18 + i * 0.24, 0.115, 0.115, TYRE)
        pen.ellipse(0.5, 0.18 + i * 0.24, 0.085, 0.085, lamp if lit else mix(lamp, (0, 0, 0), 0.45))


def house(pen: Pen) -> None:
    """How steep the roof is; a chimney, left or right; door and windows change places."""
    eaves, peak, left = pen.vary(0.42, 0.5), pen.vary(0.06, 0.16), pen.vary(0.1, 0.16)
    if pen.chance(0.7):
        x = 0.2 if pen.chance(0.5) else 0.68
        pen.rectangle(x, 0.1, x + 0.12, eaves, (150, 75, 60))
    pen.rectangle(left, eaves - 0.02, 1 - left, 0.96, pen.main)
    pen.polygon([(0.5, peak), (0.98, eaves), (0.02, eaves)], pen.accent)
    pen.line([(0.06, eaves), (0.94, eaves)], 0.05, pen.dark)
    door = pen.vary(0.22, 0.6)
    pen.rectangle(door, 0.66, door + 0.18, 0.96, (110, 66, 38))
    pen.ellipse(door + 0.14, 0.82, 0.022, 0.022, LIT)
    for x in (0.2, 0.61):
        if x + 0.2 < door or x > door + 0.2:
            pen.rectangle(x, 0.58, x + 0.19, 0.76, LIT)
            pen.line([(x + 0.095, 0.58), (x + 0.095, 0.76)], 0.025, pen.dark)
            pen.line([(x, 0.67), (x + 0.19, 0.67)], 0.025, pen.dark)
    if pen.chance(0.5):
        pen.ellipse(0.5, (peak + 2 * eaves) / 3, 0.06, 0.06, LIT)


def castle(pen: Pen) -> None:
    """How high the towers and the wall are; merlons or pointed roofs; flags; the gate."""
    tower, wall, pointed = pen.vary(0.3, 0.36), pen.vary(0.46, 0.56), pen.chance(0.5)
    pen.rectangle(0.2, wall, 0.8, 0.96, pen.main)
    for i in range(3):
        pen.rectangle(0.35 + i * 0.12, wall - 0.08, 0.41 + i * 0.12, wall + 0.02, pen.main)
    for x in (0.04, 0.7):
        pen.rectangle(x, tower, x + 0.26, 0.96, pen.main)
        pen.line([(x + 0.26 if x < 0.5 else x, wall), (x + 0.26 if x < 0.5 else x, 0.95)], 0.025, pen.dark)
        if pointed:
            pen.polygon([(x - 0.03, tower + 0.02), (x + 0.29, tower + 0.02), (x + 0.13, 0.04)], pen.accent)
        else:
            for i in range(3):
                pen.rectangle(x + i * 0.1, tower - 0.09, x + i * 0.1 + 0.06, tower + 0.02, pen.main)
            pen.line([(x + 0.13, tower), (x + 0.13, 0.06)], 0.03, TYRE)
            pen.polygon([(x + 0.13, 0.04), (x + 0.29, 0.1), (x + 0.13, 0.16)], pen.accent)
        pen.rectangle(x + 0.09, tower + 0.12, x + 0.17, tower + 0.28, TYRE, 0.03)
    gate = pen.vary(0.1, 0.13)
    pen.rectangle(0.5 - gate, 0.76, 0.5 + gate, 0.96, (92, 56, 30))
    pen.pie(0.5, 0.77, gate, 0.11, 180, 360, (92, 56, 30))


def windmill(pen: Pen) -> None:
    """The turn of the sails; stout or slim tower; the cap; door and window."""
    turn, foot, head = pen.vary(0.2, 1.3), pen.vary(0.23, 0.31), pen.vary(0.13, 0.17)
    pen.polygon([(0.5 - head, 0.36), (0.5 + head, 0.36), (0.5 + foot, 0.96), (0.5 - foot, 0.96)], pen.main)
    pen.pie(0.5, 0.37, head + 0.05, 0.2, 180, 360, pen.accent)
    pen.rectangle(0.43, 0.78, 0.57, 0.96, (92, 56, 30), 0.03)
    pen.ellipse(0.5, 0.66, 0.05, 0.05, LIT)
    for i in range(4):
        x, y = math.cos(turn + i * math.pi / 2), math.sin(turn + i * math.pi / 2)
        near, far, wide = 0.12, 0.38, 0.13
        pen.polygon(
            [
                (0.5 + near * x, 0.38 + near * y),
                (0.5 + near * x - wide * y, 0.38 + near * y + wide * x),
                (0.5 + far * x - wide * y, 0.38 + far * y + wide * x),
                (0.5 + far * x, 0.38 + far * y),
            ],
            WHITE,
        )
        pen.line([(0.5, 0.38), (0.5 + far * x, 0.38 + far * y)], 0.06, TYRE)
    pen.ellipse(0.5, 0.38, 0.055, 0.055, pen.dark)
