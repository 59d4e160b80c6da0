"""Things of a room.

Each function draws one upright thing that fills most of the unit square; its docstring lists what varies.
"""

from __future__ import annotations

from data.demo.world.pen import Pen

GLOW = (255, 238, 150)
STEEL = (165, 170, 178)
CLOTH = (250, 245, 225)


def lamp(pen: Pen) -> None:
    """How wide the shade is above and below; a thin stand or a round belly; a cord to pull."""
    top, rim, low = pen.vary(0.14, 0.22), pen.vary(0.36, 0.44), pen.vary(0.46, 0.54)
    pen.line([(0.5, low), (0.5, 0.9)], 0.08, pen.dark)
    if pen.chance(0.5):
        pen.ellipse(0.5, 0.73, pen.vary(0.12, 0.17), 0.14, pen.main)
    pen.pie(0.5, 0.96, pen.vary(0.2, 0.28), 0.11, 180, 360, pen.accent)
    pen.ellipse(0.5, low, 0.1, 0.08, GLOW)
    pen.polygon([(0.5 - top, 0.06), (0.5 + top, 0.06), (0.5 + rim, low), (0.5 - rim, low)], pen.main)
    pen.polygon([(0.505 - rim, low - 0.06), (0.495 + rim, low - 0.06), (0.5 + rim, low), (0.5 - rim, low)], pen.light)
    if pen.chance(0.5):
        pen.line([(0.66, low), (0.66, low + 0.13)], 0.03, STEEL)
        pen.ellipse(0.66, low + 0.15, 0.035, 0.035, pen.dark)


def light_bulb(pen: Pen) -> None:
    """How large the glass is; the filament's bends; two or three turns of the screw."""
    wide, turns = pen.vary(0.31, 0.36), int(pen.rng.integers(2, 4))
    pen.ellipse(0.5, 0.06 + wide, wide, wide, pen.main)
    pen.polygon([(0.5 - wide * 0.9, 0.52), (0.5 + wide * 0.9, 0.52), (0.64, 0.76), (0.36, 0.76)], pen.main)
    bend = pen.vary(0.3, 0.36)
    pen.line(
        [(0.44, 0.72), (0.36, bend), (0.45, bend + 0.1), (0.5, bend), (0.55, bend + 0.1), (0.64, bend), (0.56, 0.72)],
        0.035,
        GLOW,
    )
    pen.rectangle(0.35, 0.74, 0.65, 0.9, STEEL, 0.03)
    for i in range(turns):
        y = 0.77 + i * 0.12 / (turns - 1)
        pen.line([(0.35, y + 0.01), (0.65, y - 0.01)], 0.025, (85, 88, 95))
    pen.pie(0.5, 0.89, 0.1, 0.07, 0, 180, (60, 60, 66))
    pen.arc(0.5, 0.06 + wide, wide * 0.72, wide * 0.72, 190, 245, 0.05, pen.light)


def chair(pen: Pen) -> None:
    """Faces left or right; the height of back and seat; slits; a cushion; a bar between the legs."""
    top, seat, turn = pen.vary(0.04, 0.1), pen.vary(0.54, 0.62), pen.chance(0.5)

    def box(x0: float, y0: float, x1: float, y1: float, fill: tuple[int, int, int], radius: float = 0.02) -> None:
        pen.rectangle(*((1 - x1, y0, 1 - x0, y1) if turn else (x0, y0, x1, y1)), fill, radius)

    for x, shade in ((0.34, pen.dark), (0.62, pen.dark), (0.21, pen.main), (0.73, pen.main)):
        box(x, seat, x + 0.09, 0.88 if shade == pen.dark else 0.96, shade)
    if pen.chance(0.5):
        box(0.25, 0.78, 0.77, 0.84, pen.main)
    box(0.19, top, 0.33, seat + 0.05, pen.main)
    box(0.17, seat, 0.85, seat + 0.12, pen.main)
    box(0.26, seat - 0.06, 0.83, seat + 0.02, pen.accent, 0.04)
    for i in range(int(pen.rng.integers(0, 3))):
        box(0.2, top + 0.08 + i * 0.14, 0.32, top + 0.13 + i * 0.14, pen.light)


def table(pen: Pen) -> None:
    """Straight or spread legs; a cloth, a drawer or neither; a vase or a bowl on it."""
    top, spread, thick = pen.vary(0.38, 0.46), pen.vary(0.0, 0.06), pen.vary(0.1, 0.14)
    for side in (-1, 1):
        x = 0.5 + side * 0.37
        foot = x + side * spread
        pen.polygon([(x - 0.06, top), (x + 0.06, top), (foot + 0.045, 0.96), (foot - 0.045, 0.96)], pen.main)
        pen.rectangle(0.47 + side * 0.22, top, 0.53 + side * 0.22, 0.84, pen.dark)
    sort = int(pen.rng.integers(0, 3))
    if sort == 0:
        pen.rectangle(0.32, top + thick, 0.68, top + thick + 0.16, pen.dark)
        pen.ellipse(0.5, top + thick + 0.08, 0.045, 0.04, pen.light)
    pen.rectangle(0.04, top, 0.96, top + thick, pen.main, 0.03)
    if sort == 1:
        pen.polygon([(0.24, top), (0.76, top), (0.76, top + 0.16), (0.5, top + 0.3), (0.24, top + 0.16)], CLOTH)
    if pen.chance(0.5):
        pen.line([(0.5, top - 0.1), (0.5, top - 0.25)], 0.04, (50, 140, 60))
        pen.ellipse(0.5, top - 0.27, 0.08, 0.07, (230, 70, 90))
        pen.polygon([(0.42, top - 0.16), (0.58, top - 0.16), (0.56, top), (0.44, top)], pen.accent)
    else:
        pen.pie(0.5, top - 0.13, 0.2, 0.14, 0, 180, pen.accent)


def ladder(pen: Pen) -> None:
    """Four to six rungs; straight or narrower above; leans a little; feet."""
    rungs, foot, lean = int(pen.rng.integers(4, 7)), pen.vary(0.22, 0.28), pen.vary(-0.1, 0.1)
    head = foot - pen.vary(0.02, 0.1)
    for i in range(rungs):
        share = (i + 0.6) / (rungs + 0.2)
        half, middle = head + (foot - head) * share, 0.5 + lean * (1 - 2 * share)
        y = 0.06 + 0.88 * share
        pen.line([(middle - half, y), (middle + half, y)], 0.065, pen.accent if i % 2 else pen.light)
    for side in (-1, 1):
        pen.line([(0.5 + lean + side * head, 0.09), (0.5 - lean + side * foot, 0.9)], 0.11, pen.main)
        pen.rectangle(0.42 - lean + side * foot, 0.89, 0.58 - lean + side * foot, 0.96, pen.dark, 0.02)
