"""Every thing of the demo by its noun, and the drawing of one of them with colour, pattern and turn."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from data.demo.world import (
    things_animals,
    things_food,
    things_furniture,
    things_kitchen,
    things_objects,
    things_plants,
    things_sky,
    things_town,
)
from data.demo.world.colours import COLOURS, Colour, pattern_mask, shade
from data.demo.world.nouns import nouns
from data.demo.world.pen import SUPERSAMPLE, Pen

_MODULES = (
    things_animals,
    things_food,
    things_furniture,
    things_kitchen,
    things_objects,
    things_plants,
    things_sky,
    things_town,
)
MAX_TURN = 25.0
MAX_STRETCH = 0.15
_MIRRORED_SHARE = 0.3
_CONTRAST = 150.0


def _gather() -> dict[str, Callable[[Pen], None]]:
    """The function of every thing by noun, in the order of the vocabulary; its name is the noun with "_" for " "."""
    found: dict[str, Callable[[Pen], None]] = {}
    for module in _MODULES:
        own = vars(module).items()
        found |= {key: value for key, value in own if getattr(value, "__module__", "") == module.__name__}
    return {noun.name: found[noun.name.replace(" ", "_")] for noun in nouns() if noun.kind == "thing"}


THINGS = _gather()


def draw_thing(name: str, size: int, colour: str, pattern: str, rng: np.random.Generator) -> Image.Image:
    """One thing, cropped to what is visible of it.

    Args:
        name: a key of `THINGS`.
        size: side in pixels of the square it is drawn in, before it is turned and stretched.
        colour: a key of `COLOURS`; the main parts take a shade of it.
        pattern: one of `PATTERNS`.
        rng: source of all variation.

    Returns:
        RGBA image, at least 1 x 1.
    """
    main = shade(colour, rng)
    pen = Pen(rng, size, main, shade(_another(colour, main, 0.6 * _CONTRAST, rng), rng))
    THINGS[name](pen)
    over = shade(_another(colour, main, _CONTRAST, rng), rng)
    flat = pen.image(pattern_mask(pattern, size * SUPERSAMPLE, rng), over)
    turned = _turn(flat, rng)
    return turned.crop(turned.getchannel("A").getbbox() or (0, 0, 1, 1))


def _another(colour: str, main: Colour, distance: float, rng: np.random.Generator) -> str:
    """A colour other than `colour`, at least `distance` (in RGB, 0 to 441) from `main`."""
    names = [name for name in COLOURS if name != colour and math.dist(COLOURS[name], main) >= distance]
    return names[int(rng.integers(len(names)))]


def _turn(flat: Image.Image, rng: np.random.Generator) -> Image.Image:
    """`flat` stretched, turned and at times mirrored, in one resampling, on a canvas that holds it all."""
    angle = math.radians(rng.uniform(-MAX_TURN, MAX_TURN))
    wide = rng.uniform(1 - MAX_STRETCH, 1 + MAX_STRETCH) ** 0.5
    mirror = -1 if rng.random() < _MIRRORED_SHARE else 1
    cos, sin = math.cos(angle), math.sin(angle)
    half_x, half_y = flat.width / 2, flat.height / 2
    reach_x = wide * half_x * cos + half_y / wide * abs(sin)
    reach_y = wide * half_x * abs(sin) + half_y / wide * cos
    a, b = mirror * cos / wide, mirror * sin / wide
    d, e = -sin * wide, cos * wide
    size = (math.ceil(2 * reach_x) + 2, math.ceil(2 * reach_y) + 2)
    x, y = size[0] / 2, size[1] / 2
    back = (a, b, half_x - a * x - b * y, d, e, half_y - d * x - e * y)
    return flat.transform(size, Image.Transform.AFFINE, back, Image.Resampling.BICUBIC)
