"""Things seen in the sky.

Each function draws one upright thing that fills most of the unit square; its docstring lists what varies.
"""

from __future__ import annotations

import math

from data.demo.world.pen import Pen


def star(pen: Pen) -> None:
    """Five or six points, blunt or sharp."""
    pen.regular(0.5, 0.52, 0.48, int(pen.rng.integers(5, 7)), pen.main, inner=pen.vary(0.38, 0.52))


def moon(pen: Pen) -> None:
    """A crescent, open to the right."""
    pen.ellipse(0.5, 0.5, 0.46, 0.46, pen.main)
    pen.erase_ellipse(pen.vary(0.66, 0.76), pen.vary(0.42, 0.5), 0.40, 0.40)


def sun(pen: Pen) -> None:
    """A disc with eight to twelve rays, blunt or pointed; sometimes a face."""
    rays, pointed = int(pen.rng.integers(8, 13)), pen.chance(0.6)
    disc, half = pen.vary(0.26, 0.31), pen.vary(0.10, 0.15)
    for i in range(rays):
        turn = 2 * math.pi * i / rays
        end = 0.0 if pointed else half
        corners = [(disc + 0.05, -half), (disc + 0.05, half), (0.46, end), (0.46, -end)]
        pen.polygon([(0.5 + r * math.cos(turn + a), 0.5 + r * math.sin(turn + a)) for r, a in corners], pen.main)
    pen.ellipse(0.5, 0.5, disc, disc, pen.main)
    if pen.chance(0.5):
        for side in (-1, 1):
            pen.ellipse(0.5 + side * 0.1, 0.45, 0.03, 0.045, pen.ink)
        pen.arc(0.5, 0.5, 0.13, 0.11, 25, 155, 0.03, pen.ink)
    else:
        pen.ellipse(0.5, 0.5, disc * 0.7, disc * 0.7, pen.light)
        pen.ellipse(0.5, 0.5, disc * 0.6, disc * 0.6, pen.main)
