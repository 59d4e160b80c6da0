"""Small objects.

Each function draws one upright thing that fills most of the unit square; its docstring lists what varies.
"""

from __future__ import annotations

import math

from data.demo.world.pen import Pen

PAPER = (250, 245, 225)
WOOD = (228, 190, 140)
STEEL = (175, 180, 188)
INK = (40, 40, 44)


def key(pen: Pen) -> None:
    """Round or wide bow; two or three teeth, long or short."""
    bow, teeth = pen.vary(0.24, 0.3), int(pen.rng.integers(2, 4))
    pen.rectangle(0.44, 0.4, 0.56, 0.96, pen.main, 0.03)
    for i in range(teeth):
        low = 0.92 - i * 0.13
        pen.rectangle(0.5, low - 0.08, pen.vary(0.7, 0.82), low, pen.main)
    pen.ellipse(0.5, 0.28, bow, 0.24, pen.main)
    pen.erase_ellipse(0.5, 0.27, bow - 0.12, 0.12)
    pen.rectangle(0.4, 0.5, 0.6, 0.56, pen.accent, 0.02)
    pen.arc(0.5, 0.28, bow - 0.05, 0.19, 190, 250, 0.04, pen.light)


def guitar(pen: Pen) -> None:
    """How wide the body and the neck are; how deep the waist is; the sound hole."""
    waist, wide, neck = pen.vary(0.2, 0.24), pen.vary(0.29, 0.34), pen.vary(0.05, 0.06)
    pen.ellipse(0.5, 0.74, wide, 0.22, pen.main)
    pen.ellipse(0.5, 0.53, waist + 0.02, 0.15, pen.main)
    pen.rectangle(0.5 - neck, 0.12, 0.5 + neck, 0.56, pen.dark if pen.chance(0.5) else (92, 56, 30))
    pen.polygon([(0.4, 0.04), (0.6, 0.04), (0.57, 0.17), (0.43, 0.17)], pen.accent)
    for y in (0.08, 0.14):
        pen.line([(0.37, y), (0.63, y)], 0.04, STEEL)
    hole = pen.vary(0.085, 0.1)
    pen.ellipse(0.5, 0.62, hole + 0.03, hole + 0.03, pen.light)
    pen.ellipse(0.5, 0.62, hole, hole, INK)
    pen.line([(0.5, 0.18), (0.5, 0.82)], 0.025, PAPER)
    pen.line([(0.38, 0.83), (0.62, 0.83)], 0.06, pen.accent)


def trumpet(pen: Pen) -> None:
    """How wide the bell is; how deep the loop; the valve caps."""
    bell, loop = pen.vary(0.23, 0.3), pen.vary(0.13, 0.17)
    pen.line([(0.1, 0.4), (0.75, 0.4)], 0.08, pen.main)
    pen.arc(0.58, 0.4 + loop, 0.16, loop, -90, 90, 0.08, pen.main)
    pen.arc(0.3, 0.4 + loop, 0.16, loop, 90, 270, 0.08, pen.main)
    pen.line([(0.3, 0.4 + 2 * loop), (0.58, 0.4 + 2 * loop)], 0.08, pen.main)
    pen.polygon(
        [(0.62, 0.35), (0.78, 0.33), (0.92, 0.4 - bell), (0.92, 0.4 + bell), (0.78, 0.47), (0.62, 0.45)], pen.main
    )
    pen.ellipse(0.92, 0.4, 0.045, bell, pen.dark)
    for x in (0.32, 0.44, 0.56):
        pen.rectangle(x - 0.035, 0.28, x + 0.035, 0.38 + 2 * loop, pen.light, 0.02)
        pen.ellipse(x, 0.25, 0.05, 0.04, pen.accent)
    pen.rectangle(0.04, 0.33, 0.11, 0.47, pen.accent, 0.02)


def umbrella(pen: Pen) -> None:
    """How high the dome is; three to five scallops; the hook turns left or right."""
    high, panels, side = pen.vary(0.38, 0.48), int(pen.rng.integers(3, 6)), 1 if pen.chance(0.5) else -1
    rim = 0.1 + high
    pen.line([(0.5, 0.07), (0.5, 0.86)], 0.065, INK if pen.chance(0.5) else (110, 70, 38))
    pen.arc(0.5 + side * 0.09, 0.85, 0.09, 0.08, 180 if side < 0 else 0, 0 if side < 0 else 180, 0.065, pen.accent)
    pen.pie(0.5, rim, 0.46, high, 180, 360, pen.main)
    step = 0.92 / panels
    for i in range(panels):
        middle = 0.04 + step * (i + 0.5)
        pen.erase_ellipse(middle, rim + 0.01, step / 2, 0.07)
        if i:
            pen.line([(0.5, 0.14), (0.04 + step * i, rim - 0.03)], 0.035, pen.dark)
    pen.line([(0.5, rim - 0.06), (0.5, 0.8)], 0.065, INK)
    pen.ellipse(0.5, 0.08, 0.035, 0.04, pen.accent)


def crown(pen: Pen) -> None:
    """Three or five spikes, high or low; the jewels; the band."""
    spikes, dip, base = (3 if pen.chance(0.5) else 5), pen.vary(0.46, 0.56), pen.vary(0.86, 0.92)
    step, points = 0.84 / (spikes - 1), [(0.12, base)]
    for i in range(spikes):
        x = 0.08 + i * step
        points.append((x, 0.2 if i * 2 == spikes - 1 else 0.27))
        if i < spikes - 1:
            points.append((x + step / 2, dip))
    pen.polygon([*points, (0.88, base)], pen.main)
    for x, y in points[1::2]:
        pen.ellipse(x, y - 0.03, 0.06, 0.06, pen.accent)
    pen.rectangle(0.11, base - 0.15, 0.89, base, pen.dark, 0.02)
    for x in (0.25, 0.5, 0.75):
        pen.regular(x, base - 0.075, 0.065, 4 if pen.chance(0.5) else 12, pen.accent if x == 0.5 else PAPER)


def shoe(pen: Pen) -> None:
    """High or low ankle; how long the toe is; laces; a stripe; the sole."""
    ankle, toe, sole = pen.vary(0.2, 0.36), pen.vary(0.2, 0.28), pen.vary(0.07, 0.1)
    low = 0.88 - sole
    pen.polygon([(0.08, ankle), (0.42, ankle), (0.48, 0.48), (0.76, 0.6), (0.8, low), (0.06, low)], pen.main)
    pen.pie(0.7, low + 0.01, 0.25, toe, 180, 360, pen.main)
    pen.pie(0.78, low + 0.01, 0.17, toe * 0.65, 180, 360, pen.light)
    pen.rectangle(0.04, low, 0.96, 0.88, PAPER if pen.chance(0.6) else INK, 0.04)
    pen.line([(0.1, ankle + 0.01), (0.4, ankle + 0.01)], 0.06, pen.accent)
    for i in range(3):
        x, y = 0.42 + i * 0.09, 0.44 + i * 0.05
        pen.line([(x, y), (x - 0.05, y + 0.1)], 0.04, PAPER)
    if pen.chance(0.6):
        pen.line([(0.16, low - 0.06), (0.34, 0.56)], 0.07, pen.accent)


def book(pen: Pen) -> None:
    """Thick or thin; a title plate and lines, or an emblem; a ribbon."""
    left, thick = pen.vary(0.12, 0.18), pen.vary(0.07, 0.13)
    pen.rectangle(left, 0.06, 1 - left, 0.94, pen.dark, 0.04)
    pen.rectangle(left + 0.05, 0.9 - thick, 0.98 - left, 0.91, PAPER)
    pen.line([(left + 0.08, 0.905 - thick / 2), (0.95 - left, 0.905 - thick / 2)], 0.015, STEEL)
    pen.rectangle(left, 0.05, 1 - left, 0.91 - thick, pen.main, 0.03)
    pen.rectangle(left, 0.05, left + 0.1, 0.92, pen.dark, 0.03)
    if pen.chance(0.5):
        pen.rectangle(left + 0.18, 0.16, 0.92 - left, 0.4, PAPER)
        pen.line([(left + 0.24, 0.24), (0.86 - left, 0.24)], 0.04, INK)
        pen.line([(left + 0.24, 0.32), (0.78 - left, 0.32)], 0.04, INK)
    else:
        pen.regular(0.55, 0.42, 0.16, 5 if pen.chance(0.5) else 4, pen.accent, inner=0.5)
    if pen.chance(0.5):
        pen.polygon([(0.66, 0.88), (0.75, 0.88), (0.75, 0.97), (0.705, 0.94), (0.66, 0.97)], pen.accent)


def pencil(pen: Pen) -> None:
    """Leans left or right, thick or thin; long or short point; the rubber."""
    half, point, lean = pen.vary(0.1, 0.13), pen.vary(0.7, 0.76), pen.vary(-0.32, 0.32)

    def part(top: float, bottom: float, left: float, right: float, foot: float = 1.0) -> list[tuple[float, float]]:
        corners = [(left, top), (right, top), (right * foot, bottom), (left * foot, bottom)]
        return [(0.5 + x - (y - 0.5) * lean, y + x * lean) for x, y in corners]

    pen.polygon(part(0.2, point, -half, half), pen.main)
    pen.polygon(part(0.2, point, -half / 3, half / 3), pen.light)
    pen.polygon(part(point, 0.93, -half, half, 0.08), WOOD)
    pen.polygon(part(0.86, 0.95, -half * 0.34, half * 0.34, 0.08), INK)
    pen.polygon(part(0.13, 0.21, -half, half), STEEL)
    pen.polygon(part(0.05, 0.14, -half, half), (235, 130, 150))


def scissors(pen: Pen) -> None:
    """How wide they stand open; round or long finger holes."""
    spread, ring = pen.vary(0.14, 0.26), pen.vary(0.12, 0.15)
    for side in (-1, 1):
        tip = 0.5 + side * spread
        pen.polygon([(tip, 0.04), (tip + side * 0.06, 0.16), (0.5, 0.62), (0.5 - side * 0.1, 0.6)], STEEL)
    for side in (-1, 1):
        pen.line([(0.5, 0.54), (0.5 + side * 0.14, 0.68)], 0.1, pen.main)
        pen.arc(0.5 + side * 0.235, 0.78, 0.14, ring, 0, 360, 0.095, pen.main)
    pen.ellipse(0.5, 0.53, 0.045, 0.045, pen.dark)


def clock(pen: Pen) -> None:
    """Any hour; a plain wall clock or an alarm clock with bells and feet."""
    alarm = pen.chance(0.5)
    y, radius = (0.56, 0.37) if alarm else (0.5, 0.46)
    if alarm:
        for side in (-1, 1):
            pen.line([(0.5, y), (0.5 + side * 0.27, 0.92)], 0.09, pen.dark)
            pen.ellipse(0.5 + side * 0.25, 0.19, 0.15, 0.13, pen.accent)
        pen.line([(0.5, 0.08), (0.5, 0.3)], 0.07, pen.dark)
    pen.ellipse(0.5, y, radius, radius, pen.main)
    face = radius * pen.vary(0.66, 0.74)
    pen.ellipse(0.5, y, face, face, PAPER)
    for i in range(12 if pen.chance(0.5) else 4):
        turn = i * math.pi / 2 if i < 4 else (i - 4 + (i - 4) // 2 + 1) * math.pi / 6
        pen.ellipse(0.5 + face * 0.83 * math.cos(turn), y + face * 0.83 * math.sin(turn), 0.027, 0.027, INK)
    hour, minute = pen.vary(0, 2 * math.pi), int(pen.rng.integers(0, 12)) * math.pi / 6
    for turn, reach, width in ((hour, 0.42, 0.055), (minute, 0.68, 0.04)):
        pen.line([(0.5, y), (0.5 + face * reach * math.cos(turn), y + face * reach * math.sin(turn))], width, INK)


def balloon(pen: Pen) -> None:
    """Round or long; the curl of the string; the gleam."""
    wide, high, curl = pen.vary(0.28, 0.35), pen.vary(0.3, 0.35), pen.vary(0.03, 0.07) * (1 if pen.chance(0.5) else -1)
    low = 0.04 + 2 * high
    string = [(0.5 + curl * math.sin(i * math.pi / 6), low + (0.96 - low) * i / 13) for i in range(14)]
    pen.line(string, 0.035, PAPER)
    pen.ellipse(0.5, 0.04 + high, wide, high, pen.main)
    pen.polygon([(0.5 - wide * 0.7, high * 1.7), (0.5 + wide * 0.7, high * 1.7), (0.53, low), (0.47, low)], pen.main)
    pen.polygon([(0.5, low - 0.03), (0.58, low + 0.05), (0.42, low + 0.05)], pen.dark)
    pen.arc(0.5, 0.04 + high, wide * 0.65, high * 0.68, 190, 245, 0.06, pen.light)


def kite(pen: Pen) -> None:
    """Where the cross of the frame sits; which panels are colored; the bows on the tail."""
    cross, wide, foot = pen.vary(0.24, 0.32), pen.vary(0.28, 0.35), pen.vary(0.66, 0.72)
    bend = 0.09 if pen.chance(0.5) else -0.09
    tail = [(0.5, foot), (0.5 + bend, foot + 0.11), (0.5 - bend, foot + 0.19), (0.5, 0.94)]
    pen.line(tail, 0.035, INK)
    for x, y in tail[1:]:
        pen.polygon(
            [(x - 0.09, y - 0.045), (x + 0.09, y + 0.045), (x + 0.09, y - 0.045), (x - 0.09, y + 0.045)], pen.accent
        )
    pen.polygon([(0.5, 0.04), (0.5 + wide, cross), (0.5, foot), (0.5 - wide, cross)], pen.main)
    if pen.chance(0.7):
        pen.polygon([(0.5, 0.04), (0.5 + wide, cross), (0.5, cross)], pen.accent)
        pen.polygon([(0.5, foot), (0.5 - wide, cross), (0.5, cross)], pen.light)
    pen.line([(0.5, 0.06), (0.5, foot - 0.02)], 0.035, pen.dark)
    pen.line([(0.52 - wide, cross), (0.48 + wide, cross)], 0.035, pen.dark)


def ball(pen: Pen) -> None:
    """A beach ball, a football with patches, or a basketball with seams."""
    sort = int(pen.rng.integers(0, 3))
    seam = PAPER if sum(pen.main) < 200 else INK
    pen.ellipse(0.5, 0.5, 0.46, 0.46, pen.main)
    if sort == 0:
        turn = pen.vary(0, 60)
        for i in range(3):
            pen.pie(0.5, 0.5, 0.46, 0.46, turn + 120 * i, turn + 120 * i + 60, pen.accent if i else PAPER)
        pen.ellipse(0.5, 0.5, 0.1, 0.1, pen.light)
    elif sort == 1:
        pen.regular(0.5, 0.5, 0.17, 5, seam)
        for i in range(5):
            turn = -math.pi / 2 + i * 2 * math.pi / 5
            x, y = math.cos(turn), math.sin(turn)
            rim = [
                (0.5 + 0.46 * math.cos(turn + a), 0.5 + 0.46 * math.sin(turn + a))
                for a in (-0.36, -0.18, 0, 0.18, 0.36)
            ]
            sides = [(0.5 + 0.38 * math.cos(turn + a), 0.5 + 0.38 * math.sin(turn + a)) for a in (0.3, -0.3)]
            pen.line([(0.5 + 0.16 * x, 0.5 + 0.16 * y), (0.5 + 0.36 * x, 0.5 + 0.36 * y)], 0.035, seam)
            pen.polygon([*rim, sides[0], (0.5 + 0.32 * x, 0.5 + 0.32 * y), sides[1]], seam)
    else:
        pen.line([(0.06, 0.5), (0.94, 0.5)], 0.045, seam)
        pen.line([(0.5, 0.06), (0.5, 0.94)], 0.045, seam)
        pen.arc(-0.02, 0.5, 0.32, 0.38, -58, 58, 0.045, seam)
        pen.arc(1.02, 0.5, 0.32, 0.38, 122, 238, 0.045, seam)


def heart(pen: Pen) -> None:
    """Wide or narrow; how deep the notch is; the gleam; an arrow through it."""
    wide, high, notch = pen.vary(0.88, 1.0), pen.vary(0.9, 1.0), pen.vary(4.2, 5.6)
    points = []
    for i in range(60):
        t = 2 * math.pi * i / 60
        x, y = 16 * math.sin(t) ** 3, 13 * math.cos(t) - notch * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((0.5 + wide * x * 0.0285, 0.46 - high * y * 0.0285))
    arrow = pen.chance(0.35)
    pen.polygon(points, pen.main)
    pen.arc(0.3, 0.33, 0.12, 0.13, 170, 270, 0.055, pen.light)
    if arrow:
        pen.line([(0.08, 0.72), (0.9, 0.28)], 0.055, pen.dark)
        pen.polygon([(0.96, 0.24), (0.86, 0.4), (0.78, 0.26)], pen.accent)
        pen.polygon([(0.16, 0.67), (0.12, 0.83), (0.02, 0.84), (0.04, 0.7)], pen.accent)


def anchor(pen: Pen) -> None:
    """How wide the arms are; where the stock sits; the flukes."""
    reach, stock = pen.vary(0.32, 0.37), pen.vary(0.34, 0.4)
    pen.line([(0.5, 0.26), (0.5, 0.88)], 0.11, pen.main)
    pen.line([(0.5 - pen.vary(0.2, 0.28), stock), (0.5, stock), (0.5 + pen.vary(0.2, 0.28), stock)], 0.09, pen.dark)
    pen.arc(0.5, 0.58, reach, 0.32, 15, 165, 0.11, pen.main)
    for side in (-1, 1):
        x = 0.5 + side * reach
        pen.polygon([(x + side * 0.02, 0.5), (x + side * 0.1, 0.74), (x - side * 0.14, 0.7)], pen.main)
    pen.arc(0.5, 0.15, 0.085, 0.075, 0, 360, 0.065, pen.accent)
