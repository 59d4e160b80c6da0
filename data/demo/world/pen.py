"""A pen that draws one thing in unit coordinates: (0, 0) is the top left corner, (1, 1) the bottom right.

Everything is drawn `SUPERSAMPLE` times larger and reduced at the end, so edges are smooth. The pen records which parts are
filled with `pen.main`, because the pattern (stripes, spots, checks) covers these parts alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from data.demo.world.colours import Colour, mix

SUPERSAMPLE = 3
Point = tuple[float, float]


class Pen:
    """The drawing of one thing.

    Attributes:
        rng: source of the variation within a class.
        main: the color that captions name, of the parts that have the pattern.
        accent: a second color for details (a wheel, a leaf, a handle).
        dark, light: shades of `main` for outlines and highlights.
    """

    def __init__(self, rng: np.random.Generator, size: int, main: Colour, accent: Colour) -> None:
        self.rng = rng
        self.main, self.accent = main, accent
        self.dark, self.light = mix(main, (0, 0, 0), 0.45), mix(main, (255, 255, 255), 0.5)
        self.side = size * SUPERSAMPLE
        self.size = size
        self._image = Image.new("RGBA", (self.side, self.side), (0, 0, 0, 0))
        self._main_part = Image.new("L", (self.side, self.side), 0)
        self._draw, self._mark = ImageDraw.Draw(self._image), ImageDraw.Draw(self._main_part)

    def vary(self, low: float, high: float) -> float:
        """Draw a number uniformly from [low, high]."""
        return float(self.rng.uniform(low, high))

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return bool(self.rng.random() < probability)

    @property
    def ink(self) -> Colour:
        """A shade of `main` with contrast to it: dark, or light if `main` is nearly black."""
        return self.dark if sum(self.main) > 210 else self.light

    def polygon(self, points: Sequence[Point], fill: Colour) -> None:
        """Draw a filled polygon."""
        scaled = [(x * self.side, y * self.side) for x, y in points]
        self._draw.polygon(scaled, fill=(*fill, 255))
        self._mark.polygon(scaled, fill=self._marker(fill))

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: Colour) -> None:
        """Draw a filled ellipse around (x, y)."""
        box = [(x - rx) * self.side, (y - ry) * self.side, (x + rx) * self.side, (y + ry) * self.side]
        self._draw.ellipse(box, fill=(*fill, 255))
        self._mark.ellipse(box, fill=self._marker(fill))

    def erase_ellipse(self, x: float, y: float, rx: float, ry: float) -> None:
        """Cut an elliptic hole around (x, y), as for a crescent or the eye of a key."""
        box = [(x - rx) * self.side, (y - ry) * self.side, (x + rx) * self.side, (y + ry) * self.side]
        self._draw.ellipse(box, fill=(0, 0, 0, 0))
        self._mark.ellipse(box, fill=0)

    def erase_polygon(self, points: Sequence[Point]) -> None:
        """Cut a polygonal hole."""
        scaled = [(x * self.side, y * self.side) for x, y in points]
        self._draw.polygon(scaled, fill=(0, 0, 0, 0))
        self._mark.polygon(scaled, fill=0)

    def rectangle(self, x0: float, y0: float, x1: float, y1: float, fill: Colour, radius: float = 0.0) -> None:
        """Draw a filled rectangle, with round corners if `radius` > 0."""
        box = [x0 * self.side, y0 * self.side, x1 * self.side, y1 * self.side]
        self._draw.rounded_rectangle(box, radius * self.side, fill=(*fill, 255))
        self._mark.rounded_rectangle(box, radius * self.side, fill=self._marker(fill))

    def line(self, points: Sequence[Point], width: float, fill: Colour) -> None:
        """Draw a line with round joints and ends."""
        scaled = [(x * self.side, y * self.side) for x, y in points]
        thick = max(1, round(width * self.side))
        for draw, ink in ((self._draw, (*fill, 255)), (self._mark, self._marker(fill))):
            draw.line(scaled, fill=ink, width=thick, joint="curve")
            for x, y in scaled:
                draw.ellipse([x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2], fill=ink)

    def arc(
        self, x: float, y: float, rx: float, ry: float, start: float, end: float, width: float, fill: Colour
    ) -> None:
        """Draw an arc of the ellipse around (x, y), from `start` to `end` degrees, clockwise from three o'clock."""
        steps = np.linspace(math.radians(start), math.radians(end), 24)
        self.line([(x + rx * math.cos(a), y + ry * math.sin(a)) for a in steps], width, fill)

    def pie(self, x: float, y: float, rx: float, ry: float, start: float, end: float, fill: Colour) -> None:
        """Draw a filled sector of the ellipse around (x, y), from `start` to `end` degrees."""
        steps = np.linspace(math.radians(start), math.radians(end), 32)
        self.polygon([(x, y), *((x + rx * math.cos(a), y + ry * math.sin(a)) for a in steps)], fill)

    def regular(self, x: float, y: float, radius: float, corners: int, fill: Colour, inner: float = 1.0) -> None:
        """Draw a regular polygon on its base; with `inner` < 1 a star whose inner radius is that fraction of `radius`."""
        points = []
        for i in range(corners if inner == 1.0 else 2 * corners):
            turn = -math.pi / 2 + i * 2 * math.pi / (corners if inner == 1.0 else 2 * corners)
            reach = radius * (inner if inner != 1.0 and i % 2 else 1.0)
            points.append((x + reach * math.cos(turn), y + reach * math.sin(turn)))
        self.polygon(points, fill)

    def tilted(self, x: float, y: float, rx: float, ry: float, turn: float, fill: Colour) -> None:
        """Draw a filled ellipse around (x, y), rotated clockwise by `turn` degrees."""
        c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        round_ = [(rx * math.cos(a), ry * math.sin(a)) for a in np.linspace(0, 2 * math.pi, 48)]
        self.polygon([(x + u * c - v * s, y + u * s + v * c) for u, v in round_], fill)

    def image(self, pattern: np.ndarray | None = None, pattern_colour: Colour = (0, 0, 0)) -> Image.Image:
        """Return the finished drawing, RGBA `size` x `size`; `pattern` (bool, `[side, side]`) covers the main parts."""
        drawing = self._image
        if pattern is not None:
            covered = Image.fromarray((pattern & (np.asarray(self._main_part) > 0)).astype(np.uint8) * 255)
            drawing = drawing.copy()
            drawing.paste((*pattern_colour, 255), mask=covered)
        return drawing.resize((self.size, self.size), Image.Resampling.BOX)

    def _marker(self, fill: Colour) -> int:
        return 255 if fill == self.main else 0
